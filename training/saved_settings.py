"""Whether a saved model is used with the settings that it was trained with."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from data.own_flags import own_data
from utils import InputError, as_typed, log

# Settings that decide what a model reads and how it is scored.
OF_MODEL = (
    *("max_seq_length", "protocol", "truncation", "dream_questions", "do_lower_case", "text_columns"),
    *("context_column", "question_column", "choice_columns", "mlm_probability", "whole_word_mask", "no_packing"),
)
OF_MASKS = ("method", "asa_budget")  # of the adversaries of --eval_masks
HELD_OUT = ("seed", "dev_fraction")
TRAINED_ON = ("train_file",)


def as_now(args: Mapping) -> dict:
    """A recorded run's arguments as they would be given now.

    The protocol `corrected` was called `paper` at first. FreeLB's noise was not scaled, and SMART's average had only
    one momentum.
    """
    later = {"freelb_embedding_norm": 0.0, "smart_early_momentum": args.get("smart_momentum")}
    protocol = {"protocol": "corrected"} if args.get("protocol", "paper") == "paper" else {}
    return {name: value for name, value in later.items() if value is not None} | dict(args) | protocol


def compare_with_training(args: argparse.Namespace) -> None:
    """Warn if --test_model_file or --eval_masks are used with other settings than those of the run they are from.

    Raises:
        InputError: --dev_fraction would score rows that the model was trained on.
    """
    model, masks = args.test_model_file, args.eval_masks
    trained = settings_of_run(model)
    if getattr(args, "dev_fraction", None) and own_data(vars(args), TRAINED_ON) == own_data(trained, TRAINED_ON):
        if not trained.get("dev_fraction"):
            raise InputError(f"--dev_fraction: the training of {model} held out no rows: give a --dev_file")
        for name in HELD_OUT:
            if getattr(args, name) != trained.get(name):
                raise InputError(
                    f"--{name} {getattr(args, name)}: the training of {model} had {trained.get(name)}, and held out"
                    " other rows"
                )
    encoder = ("load_model_path",) if model and Path(model).is_file() else ()  # a state dict does not have it
    _warn(args, model, trained, (*encoder, *OF_MODEL))
    _warn(args, masks, settings_of_run(masks), OF_MASKS)


def settings_of_run(source: str | None) -> dict:
    """The recorded arguments of the run that a checkpoint lies in; empty if there is none."""
    path = Path(source or "").parent / "results.json"
    try:
        return as_now(json.loads(path.read_text(encoding="utf-8"))["args"]) if source else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _warn(args: argparse.Namespace, source: str | None, trained: dict, names: tuple[str, ...]) -> None:
    for name in names:
        if name in args and name in trained and getattr(args, name) != trained[name]:
            log.warning(
                f"{source}: trained with {as_typed(name, trained[name])}, and now used with"
                f" {as_typed(name, getattr(args, name))}"
                f" (--args_from {Path(source or '').parent} takes the settings of the training)"
            )

"""The probe: rows of each set are run through the model before a run writes or removes anything.

This finds an encoder and a tokenizer that do not fit together before the results of an earlier run are removed.
"""

import argparse
from pathlib import Path
from typing import cast

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedModel

from data.batches import collate_parts
from data.features import Features
from data.readers import Splits
from models.checkpoints import backbone_of
from models.tokenizer import positions
from training.evaluation import Head, Run
from training.state import random_states, restore_random_states
from utils import InputError


def probe(run: Run, features: Splits[Features]) -> None:
    """Try one batch of each set before anything is written: a forward pass, and a backward pass for the training set.

    Each process does this alone, in the run's precision. The run is not affected: the gradients are dropped, and the
    random-number generators are restored.

    Raises:
        InputError: encoder, tokenizer and task do not fit together; the message is one sentence.
    """
    device = run.accelerator.device
    model = run.accelerator.unwrap_model(run.model)
    streams = random_states(device)
    sets = [] if features.train is None else [("the training set", features.train)]
    for name, rows in [*sets, *features.eval.items(), *features.test.items()]:
        training = rows is features.train
        try:
            for batch in _batches(run, rows, backbone_of(model)):
                with torch.set_grad_enabled(training):
                    output = model.train(training)(**send_to_device(batch, device))
                if training:
                    output.loss.backward()
                    model.zero_grad(set_to_none=True)
        except InputError as error:
            raise InputError(f"{_origin(run.args)}: {error}") from None
        except torch.OutOfMemoryError:
            raise InputError(
                f"{device}: not enough memory for a few rows of {max(rows.lengths)} tokens, the longest of {name}:"
                f" lower --max_seq_length{', or use --gradient_checkpointing' * training}"
            ) from None
        except Exception as error:  # the library lets any exception through
            said = next(iter(str(error).splitlines()), "")
            raise InputError(
                f"{_origin(run.args)}: its model cannot compute rows of {name} as its tokenizer makes them"
                f" ({type(error).__name__}: {said}): check that the two belong together"
            ) from error
    restore_random_states(streams, device)


def leaves_out(model: nn.Module, features: Splits[Features], head: Head) -> bool:
    """Whether a training step leaves parameters without a gradient, for which other processes would wait.

    Examples are ESM's contact head, and the unused pooler of LayoutLM for token classification.

    Args:
        model: a method's module, on the CPU; it is unchanged afterwards, and so are the random generators.
    """
    assert features.train is not None
    row = min(range(len(features.train)), key=features.train.lengths.__getitem__)
    streams = random_states(torch.device("cpu"))
    try:
        model.train()(**head.collate([features.train[row]])).loss.backward()
        return any(each.grad is None for each in model.parameters() if each.requires_grad)
    except Exception:  # `probe` reports the error, on the run's device
        return False
    finally:
        model.zero_grad(set_to_none=True)
        restore_random_states(streams, torch.device("cpu"))


def _origin(args: argparse.Namespace) -> str:
    """The source of encoder and tokenizer, for messages; a single file has only the weights."""
    scored = args.test_model_file and Path(args.test_model_file).is_dir()
    return f"--test_model_file {args.test_model_file}" if scored else f"--load_model_path {args.load_model_path}"


def _batches(run: Run, features: Features, backbone: PreTrainedModel) -> list[dict[str, torch.Tensor]]:
    """The most demanding rows of a set, and a short one, so that there is padding, as one batch on the CPU.

    Rows with different numbers of choices are in several batches.

    Raises:
        InputError: the model cannot process a batch; on a GPU the library would not say why.
    """
    tokenizer = run.tokenizer
    known = len(cast(nn.Embedding, backbone.get_input_embeddings()).weight)
    if tokenizer.pad_token_id is None:
        raise InputError(
            "its tokenizer has no pad token, which a batch of rows of different lengths needs: name one as"
            ' "pad_token" in its tokenizer_config.json'
        )
    places = range(len(features))
    chosen = [max(places, key=features.lengths.__getitem__), min(places, key=features.lengths.__getitem__)]
    if max(tokenizer.get_vocab().values()) >= known:  # otherwise no row has such a token
        chosen.append(max(places, key=lambda row: _largest(features[row]["input_ids"])))
    batches = collate_parts(run.head.collate, 1, [features[row] for row in dict.fromkeys(chosen)])
    for batch in batches:
        _check_limits(batch, backbone, known)
        _check_problem(batch, backbone)
    return batches


def _largest(ids: list) -> int:
    """The largest token id in a row, which may have several sequences."""
    return max(map(_largest, ids)) if isinstance(ids[0], list) else max(ids)


def _check_limits(batch: dict[str, torch.Tensor], backbone: PreTrainedModel, known: int) -> None:
    config = backbone.config
    token, segment = (int(batch[name].max()) if name in batch else 0 for name in ("input_ids", "token_type_ids"))
    if token >= known:
        raise InputError(
            f"its tokenizer gives the token id {token}, and its encoder has the ids 0 to {known - 1} alone: use the"
            " tokenizer that the encoder was trained with"
        )
    types = getattr(config, "type_vocab_size", None)
    if types is not None and segment >= types:
        raise InputError(
            f"its tokenizer gives the segment id {segment}, and its encoder has type_vocab_size {types}: take"
            ' "token_type_ids" out of "model_input_names" in its tokenizer_config.json'
        )
    width = batch["input_ids"].shape[-1]
    if width > (limit := positions(config)):
        raise InputError(
            f"its encoder has positions for {limit} tokens, and there are rows of {width}: lower --max_seq_length"
        )


def _check_problem(batch: dict[str, torch.Tensor], backbone: PreTrainedModel) -> None:
    """Check that the task fits a sentence classifier's `problem_type`, which decides its loss."""
    said, labels = backbone.config.problem_type, batch.get("labels")
    if said is None or labels is None or not type(backbone).__name__.endswith("ForSequenceClassification"):
        return
    problem = "regression" if labels.is_floating_point() else "single_label_classification"
    if said != problem:
        raise InputError(
            f"its config.json has problem_type {said}, and the task is {problem}: take problem_type out of it"
        )

"""The command line of the scripts: shared argument groups, checked before anything is loaded.

Nothing heavy is imported here, so that `--help` and argument errors appear at once.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data import own_flags
from data.task_kinds import DREAM_QUESTIONS, Task
from data.tasks import CHOICE_TASKS, SENTENCE_TASKS, TOKEN_TASKS
from models.methods import RANDOM_MASK_KEEP_RATE, unused_flags
from training import argument_files, text_arguments, trackers
from training.flags import add_own_data, build_parser
from utils import InputError, log

POLYNOMIAL_END = 1e-7  # the final learning rate in transformers' polynomial schedule

# Arguments for where and how a run computes, not what: they may change when the run is resumed.
EXECUTION = {
    *(
        "config",
        "args_from",
        "output_dir",
        "overwrite_output_dir",
        "resume",
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "liveness_steps",
        "report_to",
    ),
    *("data_dir", "cache_dir", "token_cache_dir", "num_workers", "eval_batch_size", "do_test", "resume_changed_code"),
    *("test_file", "predictions_format"),
}
# Arguments whose defaults depend on other arguments.
SETTLED = ("attn_implementation", "group_by_length", "pad_to_max_length")

# Methods that --fsdp is tested with; others keep a second set of weights, or run their own backward passes.
WITH_FSDP = ("naive", "asa", "asa_budget")
TRUNCATIONS = ("longest_first", "only_first")


def execution(args: Mapping) -> set[str]:
    """`EXECUTION` for these arguments: with `--eval_on test`, the test files are what is scored."""
    return EXECUTION - ({"test_file"} if args.get("eval_on") == "test" else set())


@dataclass(frozen=True)
class Script:
    """The differences between the command lines of the scripts.

    tasks: the script's tasks by name.
    defaults: the default values, from the release.
    """

    about: str
    tasks: Mapping[str, Task]
    defaults: Mapping[str, object]


SCRIPTS = {
    "run_sent_clas": Script(
        "Fine-tune, evaluate and test an encoder on a sentence or sentence-pair task.",
        SENTENCE_TASKS,
        {
            "train_batch_size": 32,
            "eval_batch_size": 128,
            "learning_rate": 1e-5,
            "warmup_proportion": 0.06,
            "weight_decay": 0.01,
        },
    ),
    "run_multi_cho": Script(
        "Fine-tune, evaluate and test an encoder on a multiple-choice task.",
        CHOICE_TASKS,
        {
            "train_batch_size": 16,
            "eval_batch_size": 64,
            "learning_rate": 1e-5,
            "warmup_proportion": 0.06,
            "weight_decay": 0.0,
        },
    ),
    "run_tok_clas": Script(
        "Fine-tune, evaluate and test an encoder on a task with a tag for each word.",
        TOKEN_TASKS,
        {
            "train_batch_size": 32,
            "eval_batch_size": 64,
            "learning_rate": 5e-5,
            "warmup_proportion": 0.1,
            "weight_decay": 0.0,
        },
    ),
    "run_mlm": Script(
        "Train an encoder further on plain text, by masked language modelling.",
        {},
        {
            "train_batch_size": 32,
            "eval_batch_size": 64,
            "learning_rate": 1e-4,
            "warmup_proportion": 0.06,
            "weight_decay": 0.01,
        },
    ),
}


def of_script(name: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of one of `SCRIPTS`, checked as far as possible without reading a file.

    Raises:
        InputError: the arguments contradict each other.
    """
    script = SCRIPTS[name]
    parser = build_parser(script.about, script.tasks, **script.defaults)
    if name == "run_multi_cho":
        group = parser.add_argument_group("multiple choice")
        group.add_argument(
            "--dream_questions",
            choices=DREAM_QUESTIONS,
            default="first",
            help="which questions of each DREAM dialogue to use (default: %(default)s)",
        )
        group.add_argument(
            "--truncation",
            choices=TRUNCATIONS,
            default="longest_first",
            help="truncate the longer of context and question, or only the context (default: %(default)s)",
        )
    if name == "run_mlm":
        text_arguments.add_flags(parser)
    else:
        add_own_data(parser, name)
    argument_files.add_flags(parser)
    args = parse(parser, argument_files.with_files(parser, sys.argv[1:] if argv is None else argv))
    if argv is None:  # typed by a user, and not one of a grid's many
        _tell_unused(parser, args, sys.argv[1:])
    return args


def _tell_unused(parser: argparse.ArgumentParser, args: argparse.Namespace, typed: Sequence[str]) -> None:
    """Warn of typed flags that the method does not read."""
    flags = {part.partition("=")[0] for part in typed}
    unused = unused_flags(args.method)
    if "adversary_learning_rate" in unused:  # without adversaries there is no liveness either
        unused = unused | {"liveness_steps"}
    for action in parser._actions:
        if args.do_train and action.dest in unused and flags & set(action.option_strings):
            log.warning(f"{action.option_strings[0]} has no effect with --method {args.method}")
    if args.do_train and "--warmup_proportion" in flags and args.lr_scheduler_type == "constant":
        log.warning("--warmup_proportion has no effect with --lr_scheduler_type constant: constant_with_warmup has one")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, check what can be checked without reading a file, and set the defaults that depend on other arguments.

    Raises:
        InputError: the arguments contradict each other.
    """
    args = parser.parse_args(argv)
    args.test_model_file = args.test_model_file or None  # in the release, empty by default
    if "mlm_probability" in args:
        text_arguments.check(args)
    if not (args.do_train or args.do_eval or args.do_test):
        choices = "--do_train or --do_eval" if "mlm_probability" in args else "--do_train, --do_eval or --do_test"
        raise InputError(f"nothing to do: give {choices}")
    if not args.output_dir:
        raise InputError("--output_dir is empty: name the folder of this run")
    if not args.load_model_path:
        raise InputError("--load_model_path is empty: name an encoder")
    polynomial = args.do_train and args.lr_scheduler_type == "polynomial"
    if polynomial and args.learning_rate <= POLYNOMIAL_END:
        raise InputError(f"--learning_rate {args.learning_rate:g}: polynomial decay ends at {POLYNOMIAL_END:g}")
    if polynomial and args.warmup_proportion == 1:
        raise InputError("--warmup_proportion 1: polynomial decay needs steps after the warm-up: give less")
    if args.random_mask_budget is not None and args.random_mask_keep_rate != RANDOM_MASK_KEEP_RATE:
        raise InputError("--random_mask_budget and --random_mask_keep_rate exclude each other: give one of them")
    if args.fp16 and args.bf16:
        raise InputError("--fp16 and --bf16 exclude each other: give one of them")
    if args.fsdp:
        _check_fsdp(args)
    if args.test_model_file is None and not args.do_train:
        flag = "--do_test" if args.do_test else "--do_eval"
        raise InputError(f"{flag} without --do_train needs --test_model_file, the checkpoint to use")
    if args.test_model_file is not None and args.do_train:
        raise InputError(
            "--test_model_file and --do_train exclude each other: after training, its own model is evaluated and tested"
        )
    if args.resume is not None and not args.do_train:
        raise InputError("--resume goes on with training: it needs --do_train")
    if args.resume is not None and args.overwrite_output_dir:
        raise InputError("--resume and --overwrite_output_dir exclude each other: go on, or start again")
    if args.train_batch_size < args.gradient_accumulation_steps:
        raise InputError(
            f"--train_batch_size {args.train_batch_size}: fewer examples than"
            f" --gradient_accumulation_steps {args.gradient_accumulation_steps} parts to split them into"
        )
    if args.test_model_file is not None and not Path(args.test_model_file).exists():
        raise InputError(f"--test_model_file {args.test_model_file}: no such file or folder")
    if args.test_model_file is not None:
        args.test_model_file = _best_of_run(args.test_model_file)
    if "dev_fraction" in args:
        own_flags.check(args)
    if args.eval_file is not None:
        _check_eval_file(args)
    if args.eval_masks is not None:
        _check_eval_masks(args)
    args.report_to = trackers.chosen(args.report_to) if args.do_train else "none"
    if args.do_train and args.optimizer == "apex_fused_adam":
        _check_apex(args)
    # The release pads everything to the full length, in random batches.
    args.pad_to_max_length = args.pad_to_max_length or args.protocol == "release"
    if args.group_by_length is None:
        args.group_by_length = not args.pad_to_max_length
    return args


def _best_of_run(path: str) -> str:
    """The given checkpoint; for the folder of a run, its best epoch.

    Raises:
        InputError: the run's folder has no best epoch.
    """
    folder, best = Path(path), Path(path) / "best"
    if not (folder / "results.json").is_file() or (folder / "config.json").is_file():
        return path
    if best.is_dir():
        return str(best)
    raise InputError(
        f"--test_model_file {path}: the folder of a run without best/, the model of its best epoch: it was cut off"
        " before its first epoch ended, or its models were removed (reproduce.py --keep_checkpoints keeps them); give"
        " another"
    )


def _check_eval_file(args: argparse.Namespace) -> None:
    if args.do_train:
        raise InputError(
            "--eval_file and --do_train exclude each other: train first, then evaluate what was saved"
            " (--test_model_file)"
        )
    if not args.do_eval:
        raise InputError("--eval_file names what --do_eval is to score: add --do_eval")
    if args.eval_on != "dev":
        raise InputError(f"--eval_file and --eval_on {args.eval_on} exclude each other: give one of them")
    if not Path(args.eval_file).is_file():
        raise InputError(f"--eval_file {args.eval_file}: no such file")


def _check_eval_masks(args: argparse.Namespace) -> None:
    if not args.do_eval or args.do_train or args.do_test:
        raise InputError("--eval_masks is for the evaluation of a checkpoint: give it with --do_eval alone")
    if args.method not in ("asa", "asa_budget", "random_mask"):
        raise InputError(f"--eval_masks: --method {args.method} has no masks: give asa, asa_budget or random_mask")
    if (args.eval_masks == "random") != (args.method == "random_mask"):
        raise InputError(
            f"--eval_masks {args.eval_masks} and --method {args.method} exclude each other: random_mask goes with"
            " random, and the others with a checkpoint that has adversaries"
        )
    if args.eval_masks != "random" and not Path(args.eval_masks).is_file():
        raise InputError(f"--eval_masks {args.eval_masks}: no such file")


def _check_fsdp(args: argparse.Namespace) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        raise InputError("--fsdp is for several processes: start them with torchrun, or leave it out")
    if args.fp16:
        raise InputError("--fsdp and --fp16 exclude each other: use --bf16, which needs no loss scale")
    if args.optimizer == "apex_fused_adam":
        raise InputError("--fsdp and --optimizer apex_fused_adam exclude each other: use --optimizer adamw")
    if args.do_train and args.method not in WITH_FSDP:
        raise InputError(f"--fsdp works with --method {', '.join(WITH_FSDP)}, not {args.method}")
    if args.liveness_steps:  # it calls the encoder directly, and not in every process
        raise InputError("--fsdp and --liveness_steps exclude each other: give one of them")


def _check_apex(args: argparse.Namespace) -> None:
    try:
        built = bool(importlib.util.find_spec("apex.optimizers") and importlib.util.find_spec("amp_C"))
    except Exception:  # a package called apex may raise anything on import
        built = False
    if not built:
        raise InputError(
            "--optimizer apex_fused_adam: NVIDIA apex with its CUDA extensions is not installed, and the package that"
            " pip calls apex is not it: build it from github.com/NVIDIA/apex, or leave the flag out"
        )
    import torch

    if args.no_cuda or not torch.cuda.is_available():
        raise InputError("--optimizer apex_fused_adam needs a GPU: leave the flag out")

"""The flags for the user's own data: check their combinations, and set what they leave open."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils import InputError, log

FILES = ("train_file", "dev_file", "test_file")
DEV_FRACTION = 0.1
# Flags that have a meaning only with the user's own data.
SETTINGS = (
    *("dataset_config_name", "dev_fraction", "metric", "text_columns", "label_column", "regression"),
    *("context_column", "question_column", "choice_columns", "token_column", "tag_column", "predictions_format"),
)
FORMATS = ("tsv", "jsonl")  # of the predictions file
# Script -> the choices for --metric.
METRICS = {
    "run_sent_clas": ("accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"),
    "run_multi_cho": ("accuracy",),
    "run_tok_clas": ("token_f1", "entity_f1", "accuracy"),
}


def is_own(args: Mapping) -> bool:
    """Whether arguments, given or recorded, are for the user's own data."""
    return any(args.get(name) for name in (*FILES, "dataset_name"))


def own_data(args: Mapping, names: Sequence[str] = FILES) -> dict:
    """Which data of the user's own a run had, wherever they were: the names of the files and of the data set."""
    found = {name: [Path(path).name for path in args[name]] for name in names if args.get(name)}
    folder = args.get("dataset_name")
    return found | ({"dataset_name": "/".join(Path(folder).parts[-2:])} if folder else {})


def check(args: argparse.Namespace) -> None:
    """Raise `InputError` if the flags for own data contradict each other or other flags; no file is read."""
    given = vars(args)
    if not is_own(given):
        for name in SETTINGS:
            if given.get(name):
                raise InputError(
                    f"--{name} is for data of your own: give them with --train_file, --dev_file, --test_file or"
                    " --dataset_name"
                )
        if args.task_name is None:
            raise InputError(
                "--task_name is missing: name a task, or give data of your own with --train_file or --dataset_name"
            )
        return
    files = [name for name in FILES if given[name]]
    if args.eval_file is not None:
        raise InputError("--eval_file is for the tasks that have a name here: give --dev_file")
    if args.dataset_name and files:
        raise InputError(f"--dataset_name and --{files[0]} exclude each other: give one of them")
    if args.dataset_config_name and not args.dataset_name:
        raise InputError("--dataset_config_name needs --dataset_name: give both")
    if args.dev_fraction == 1:
        raise InputError("--dev_fraction 1 leaves nothing to train on: give less")
    if args.dev_fraction and args.dev_file:
        raise InputError("--dev_fraction and --dev_file exclude each other: give one of them")
    for name in ("dev_file", "test_file"):
        set_names("", given[name] or (), f"--{name}")
    scored = f"{args.eval_on}_file" if args.do_eval else ""
    if args.dev_file and scored != "dev_file":
        log.warning(f"--dev_file is not used without --do_eval{' on dev' if args.do_eval else ''}")
    if args.dev_fraction and args.eval_on == "test":
        log.warning("--dev_fraction is not used with --eval_on test")
    if args.test_file and not args.do_test and scored != "test_file":
        log.warning("--test_file is not used without --do_test, or --do_eval --eval_on test")
    if args.dataset_name:
        return
    if args.do_train and not args.train_file:
        raise InputError("--do_train needs --train_file, the rows to train on")
    if args.do_test and not args.test_file:
        raise InputError("--do_test needs --test_file, the rows to predict")
    if args.do_eval and args.eval_on == "test" and not args.test_file:
        raise InputError("--eval_on test needs --test_file, with labels")
    check_evaluation(args, bool(args.dev_file), "--dev_file")


def check_evaluation(args: argparse.Namespace, has_dev: bool, what: str) -> None:
    """Raise `InputError` if there is nothing to evaluate on; without a dev set, set the fraction to hold out."""
    if args.dev_fraction and has_dev:
        raise InputError(f"--dev_fraction: the data have a dev set already ({what}): leave the flag out")
    if has_dev or not args.do_eval or args.eval_on != "dev":
        return
    if not args.do_train and not args.dev_fraction and args.dataset_name:
        raise InputError(
            f"--do_eval: {what} has no dev set: add one, or give --eval_on test; or, to score what a training held out,"
            " its --dev_fraction and --seed"
        )
    if not args.do_train and not args.dev_fraction:
        raise InputError(
            "--do_eval needs --dev_file, the rows to score; or, to score what a training held out, its --train_file,"
            " --dev_fraction and --seed"
        )
    if args.dev_fraction and not args.train_file and not args.dataset_name:
        raise InputError("--dev_fraction needs --train_file, the rows to divide")
    args.dev_fraction = args.dev_fraction or DEV_FRACTION


def set_names(name: str, given: Sequence[str], flag: str) -> list[str]:
    """The names of a split's sets: the task's name for a single set, else `<task>-<file>` for each.

    Raises:
        InputError: two of them have the same name.
    """
    if len(given) < 2:
        return [name] * len(given)
    stems = [re.sub(r"[^\w.-]", "_", Path(path).stem) for path in given]
    names = [f"{name}-{stem}" for stem in stems]
    twice = [path for path, each in zip(given, names, strict=True) if names.count(each) > 1]
    if twice:
        raise InputError(f"{flag}: {' and '.join(map(str, twice))} have the same name: rename one")
    return names

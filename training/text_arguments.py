"""The flags of masked language modelling on plain text, and the checks of their combinations with others."""

import argparse
from pathlib import Path

from data.columns import SUFFIXES
from models.methods import METHODS
from training.flags import positive_int, share
from utils import InputError, log

# Arguments that only tasks with labels use.
WITHOUT_MEANING = {"do_test": False, "eval_on": "dev", "eval_file": None}
MLM_PROBABILITY = 0.15


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add these flags to those that all scripts share."""
    group = parser.add_argument_group("the text")
    forms = f".txt (documents set apart by blank lines, or else one a line), {', '.join(SUFFIXES[:-1])}"
    group.add_argument("--train_file", nargs="+", metavar="TEXT", help=f"{forms}; several are one set")
    group.add_argument("--dev_file", nargs="+", metavar="TEXT", help="held-out text, for loss and perplexity")
    group.add_argument(
        "--dataset_name",
        metavar="NAME",
        help="name on the Hub, or a folder: with files train.* and dev.*, or as datasets.save_to_disk writes it",
    )
    group.add_argument("--dataset_config_name", metavar="NAME", help="which configuration, if it has several")
    group.add_argument(
        "--stream_train_rows",
        type=positive_int,
        metavar="N",
        help="stream only N rows of a large set on the Hub, and train on them",
    )
    group.add_argument(
        "--stream_dev_rows",
        type=positive_int,
        metavar="N",
        help="hold out N rows: of its validation set, or else the first of its training set, before those",
    )
    group.add_argument(
        "--text_columns",
        help="text column of tables, or two as a,b, which are joined (default: guessed from the names)",
    )
    group.add_argument("--no_packing", action="store_true", help="never put text of two documents in one row")
    group = parser.add_argument_group("masked words")
    group.add_argument(
        "--mlm_probability",
        type=share,
        default=MLM_PROBABILITY,
        help="share of the tokens to be predicted (default: %(default)s)",
    )
    group.add_argument("--whole_word_mask", action="store_true", help="mask whole words instead of tokens")


def check(args: argparse.Namespace) -> None:
    """Set --do_train and --do_eval, if not given, according to the given files, and check the arguments.

    Raises:
        InputError: the arguments contradict each other.
    """
    for name, usual in WITHOUT_MEANING.items():
        if getattr(args, name) != usual:
            raise InputError(f"--{name}: plain text has no labels to predict or to choose by: leave the flag out")
    known = [name for name, method in METHODS.items() if method.of_words]
    if args.method not in known:
        raise InputError(f"--method {args.method} is not for masked language modelling: use {', '.join(known)}")
    if args.dataset_name and (args.train_file or args.dev_file):
        raise InputError("--dataset_name and files exclude each other: give one of them")
    if args.dataset_config_name and not args.dataset_name:
        raise InputError("--dataset_config_name is of a --dataset_name: give that too")
    streamed = {split: getattr(args, f"stream_{split}_rows") for split in ("train", "dev")}
    if any(streamed.values()):
        flag = next(f"--stream_{split}_rows" for split, rows in streamed.items() if rows)
        if not args.dataset_name or Path(args.dataset_name).is_dir():
            raise InputError(f"{flag} is of a data set on the Hub: give its name as --dataset_name")
        if not (args.do_train or args.do_eval):
            args.do_train = args.test_model_file is None and bool(streamed["train"])
            args.do_eval = bool(streamed["dev"]) or not args.do_train
        for split, wanted, to_do in (("train", args.do_train, "--do_train"), ("dev", args.do_eval, "--do_eval")):
            if wanted and not streamed[split]:
                raise InputError(f"{to_do} needs --stream_{split}_rows, how many rows to fetch")
    if not (args.train_file or args.dev_file or args.dataset_name):
        raise InputError("--train_file is missing: give the text to train on, or --dataset_name")
    if not (args.do_train or args.do_eval):
        args.do_train = args.test_model_file is None and bool(args.train_file or args.dataset_name)
        args.do_eval = bool(args.dev_file or args.dataset_name)
    if args.do_train and not (args.train_file or args.dataset_name):
        raise InputError("--do_train needs --train_file, the text to train on")
    if args.do_eval and not (args.dev_file or args.dataset_name):
        raise InputError("--do_eval needs --dev_file, the text that is held out")
    if args.dev_file and not args.do_eval:
        log.warning("--dev_file is not used without --do_eval")

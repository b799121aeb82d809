"""The user's own plain text, from files or a data set -> a task of masked language modelling."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data import own, own_sets
from data.columns import columns_of, given_columns, guessed_texts, tell
from data.formats import has_blank_lines
from data.stream import first_texts
from data.task_kinds import DataSet, Names
from data.text import SUFFIXES_OF_TEXT, TEXT, TextTask
from utils import InputError, log

SPLITS = ("train", "dev")


def text_task(args: argparse.Namespace) -> TextTask:
    """Make the task from the text that the arguments name; all files of one flag are one set.

    Raises:
        InputError: a file is missing or has an unknown format, or it is not clear which column has the text.
    """
    name = own.task_name(args)
    files = _files(args)
    paths = [path for split in SPLITS for path in files[split]]
    for path in paths:
        if path.suffix.lower() == TEXT:
            by = "blank lines" if has_blank_lines(path) else "lines"
            log.info(f"{path}: its documents are set apart by {by}")
    sets = {split: DataSet(tuple((str(path),) for path in files[split])) for split in SPLITS if files[split]}
    dev = {name: sets["dev"]} if "dev" in sets else {}
    return TextTask(name=name, train=sets.get("train"), dev=dev, test={}, text=_columns(args, paths))


def _files(args: argparse.Namespace) -> dict[str, list[Path]]:
    """Split -> its files, for the splits that the run needs."""
    found = _data_set(args) if args.dataset_name else own_sets.given_files(args, SPLITS, SUFFIXES_OF_TEXT)
    own_sets.warn_of_trained_on(args, found, "text")
    return found


def _data_set(args: argparse.Namespace) -> dict[str, list[Path]]:
    """The files of a folder, or the files in which the `datasets` library stores a data set."""
    if args.stream_train_rows or args.stream_dev_rows:
        return {split: [] for split in SPLITS} | first_texts(args)
    folder = Path(args.dataset_name)
    named = own_sets.split_files(folder, SUFFIXES_OF_TEXT) if folder.is_dir() else {}
    found = {split: [path] for split, path in named.items()}
    found = found or {split: paths for split, [paths] in own_sets.loaded(args).items()}
    if args.do_train and "train" not in found:
        raise InputError(f"--dataset_name {args.dataset_name}: it has no train set")
    if args.do_eval and "dev" not in found:
        raise InputError(
            f"--dataset_name {args.dataset_name}: it has no validation set: give --do_train alone, or files"
        )
    return {split: found.get(split, []) for split in SPLITS}


def _columns(args: argparse.Namespace, paths: Sequence[Path]) -> Names:
    """The text columns of the tables among the files, by `--text_columns` or by name; none if there is no table.

    Raises:
        InputError: it is not clear which columns have the text, or a table lacks them.
    """
    tables = [path for path in paths if path.suffix.lower() != TEXT]
    if not tables:
        if args.text_columns is not None:
            raise InputError(f"--text_columns {args.text_columns}: {paths[0]} has no columns: leave the flag out")
        return ()
    path, columns = tables[0], columns_of(tables[0])
    given = given_columns("--text_columns", args.text_columns, path, columns, most=2)
    found = given or guessed_texts(path, columns, (), needed=False)
    tell(path, {"text": found}, {"--text_columns": given})
    return found

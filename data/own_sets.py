"""The user's own files or data set -> the sets of a task."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data.formats import arrow_parts
from data.own_flags import check_evaluation, set_names
from data.task_kinds import DataSet, Share
from utils import InputError, counted, log

# Names of a split's file in a folder, and of a split in a data set.
SPLITS = {"train": ("train", "training"), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}


def files_of(args: argparse.Namespace, suffixes: Sequence[str]) -> dict[str, list[list[Path]]]:
    """The user's files: split -> its sets, each a list of files.

    Raises:
        InputError: a file is missing or has an unknown format, or the data set cannot be read.
    """
    if args.dataset_name:
        folder = Path(args.dataset_name)
        found = {split: [[path]] for split, path in split_files(folder, suffixes).items()} if folder.is_dir() else {}
        found = found or loaded(args)
        for split, needed in (("train", args.do_train), ("test", args.do_test or args.eval_on == "test")):
            if needed and split not in found:
                raise InputError(f"--dataset_name {args.dataset_name}: it has no {split} set")
        check_evaluation(args, "dev" in found, args.dataset_name)
        return {split: found.get(split, []) for split in SPLITS}
    files = given_files(args, tuple(SPLITS), suffixes)
    warn_of_trained_on(args, files, "rows")
    sets = {split: [[path] for path in paths] for split, paths in files.items()}
    return sets | {"train": [files["train"]] if files["train"] else []}


def given_files(args: argparse.Namespace, splits: Sequence[str], suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Split -> the files that its flag names.

    Args:
        suffixes: allowed suffixes; empty for any.

    Raises:
        InputError: a file is missing or has another suffix.
    """
    files = {split: [Path(path) for path in getattr(args, f"{split}_file") or ()] for split in splits}
    for split, paths in files.items():
        for path in paths:
            if not path.is_file():
                what = "a folder: name its files, or give it as --dataset_name" if path.is_dir() else "no such file"
                raise InputError(f"--{split}_file {path}: {what}")
            if suffixes and path.suffix.lower() not in suffixes:
                raise InputError(
                    f"--{split}_file {path}: its name must end in one of {', '.join(suffixes[:-1])}, which says how it"
                    " is read"
                )
    return files


def warn_of_trained_on(args: argparse.Namespace, files: Mapping[str, Sequence[Path]], what: str) -> None:
    """Warn if the run scores a file that it trains on, which says nothing about new `what`."""
    trained_on = {path.resolve() for path in files["train"]}
    for path in files["dev"]:
        if path.resolve() in trained_on and args.do_train and args.do_eval:
            log.warning(f"{path}: a --dev_file that is trained on says nothing about new {what}")


def split_files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files train.*, dev.* and test.* of a folder, those that exist.

    Args:
        suffixes: allowed suffixes; empty for any.

    Raises:
        InputError: there are several files for one split.
    """
    found = {}
    for split, words in SPLITS.items():
        paths = [
            path
            for path in sorted(folder.iterdir())
            if path.is_file() and path.stem.lower() in words and (not suffixes or path.suffix.lower() in suffixes)
        ]
        if len(paths) > 1:
            names = " or ".join(path.name for path in paths)
            raise InputError(f"{folder}: is its {split} set {names}? keep one, or name the files (--{split}_file)")
        if paths:
            found[split] = paths[0]
    return found


def loaded(args: argparse.Namespace) -> dict[str, list[list[Path]]]:
    """The splits of a data set that the `datasets` library reads, as the Arrow files that it stores.

    Raises:
        InputError: the data set cannot be read.
    """
    import datasets  # takes seconds

    name = args.dataset_name
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        if (Path(name) / "dataset_dict.json").is_file():  # written by `save_to_disk`
            found = datasets.load_from_disk(name)
        elif (Path(name) / "state.json").is_file():  # one set alone
            found = {"train": datasets.load_from_disk(name)}
        else:
            found = datasets.load_dataset(name, args.dataset_config_name, cache_dir=args.cache_dir)
    except Exception as error:  # the library lets any exception through
        raise unreadable(name, error) from None
    splits = {}
    for split in SPLITS:
        known = split_of(found, split)
        if known is None:
            continue
        chosen = found[known]
        paths = [Path(file["filename"]) for file in chosen.cache_files]
        if sum(len(part) for path in paths for part in arrow_parts(path)) != len(chosen):
            raise InputError(f"--dataset_name {name}: its {known} set is not kept as files: give files of its rows")
        log.info(f"{name}: the {split} set is {known}, with {counted(len(chosen), 'row')}")
        splits[split] = [paths]
    if not splits:
        raise InputError(f"--dataset_name {name}: it has no train, validation or test set, but {', '.join(found)}")
    return splits


def split_of(sets: Iterable[str], split: str) -> str | None:
    """The data set's split that serves as `split` of a task: `train` before `train_small`; None if there is none."""
    words = SPLITS[split]
    known = [each for word in words for each in sets if str(each) == word or str(each).startswith(f"{word}_")]
    return min(known, key=lambda each: str(each) not in words, default=None)


def unreadable(name: str, error: BaseException) -> InputError:
    """The error for a data set that the `datasets` library cannot read."""
    said = " ".join(str(error).split())[:200] or type(error).__name__
    hint = " (--dataset_config_name)" if "onfig" in said else ""
    return InputError(f"--dataset_name {name}: the library datasets cannot read it ({said}){hint}")


def sets_of(args: argparse.Namespace, name: str, files: Mapping[str, list[list[Path]]], stratified: bool) -> dict:
    """The `train`, `dev` and `test` of a task."""

    fraction = args.dev_fraction if args.eval_on == "dev" else None  # a test set is scored: nothing to hold out

    def data_set(paths: Sequence[Path], held_out: bool | None = None, **more) -> DataSet:
        share = None
        if held_out is not None and fraction:
            share = Share(fraction, args.seed, held_out, stratified)
        return DataSet(tuple((str(path),) for path in paths), share=share, **more)

    train = [path for paths in files["train"] for path in paths]
    dev, test = (set_names(name, [str(paths[0]) for paths in files[split]], split) for split in ("dev", "test"))
    sets = {
        "train": data_set(train, held_out=False) if train else None,
        "dev": {each: data_set(paths) for each, paths in zip(dev, files["dev"], strict=True)},
        "test": {each: data_set(paths, submission=each) for each, paths in zip(test, files["test"], strict=True)},
    }
    if fraction:
        sets["dev"] = {name: data_set(train, held_out=True)}
    return sets

"""The first rows of a data set on the Hub, fetched as a stream, where the whole of it is too much."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.own_sets import SPLITS, split_of, unreadable
from utils import InputError, counted, log


def first_rows(name: str, config: str | None, cache_dir: str | None, train: int, dev: int) -> dict[str, list[Path]]:
    """Split -> the Arrow files with its first rows, kept by the library `datasets`: a second call fetches nothing.

    Args:
        train: how many rows of the training set; none where 0.
        dev: how many rows of the validation set, or, where there is none, of the training set, after the first `train`.

    Raises:
        InputError: the data set cannot be read, or has too few rows.
    """
    import datasets  # takes seconds

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    found = {}
    for split, number in (("train", train), ("dev", dev)):
        if not number:
            continue
        wanted = {"name": name, "config": config, "split": split, "number": number, "trained_on": train}
        try:
            rows = datasets.Dataset.from_generator(_rows, cache_dir=cache_dir, gen_kwargs=wanted)
        except Exception as error:  # the library raises what its parts raise, wrapped in its own
            cause = error.__cause__ or error
            raise cause if isinstance(cause, InputError) else unreadable(name, cause) from None
        found[split] = [Path(file["filename"]) for file in rows.cache_files]
        log.info(f"{name}: the {split} set is {counted(len(rows), 'row')}, kept as {found[split][0]}")
    return found


def _rows(name: str, config: str | None, split: str, number: int, trained_on: int) -> Iterator[dict[str, Any]]:
    """The rows of `first_rows`, which `datasets` keeps under a name made of these arguments."""
    import datasets

    sets = datasets.load_dataset(name, config, streaming=True)
    chosen, begin = split_of(sets, split), 0
    if chosen is None and split == "dev":
        chosen, begin = split_of(sets, "train"), trained_on
    if chosen is None:
        raise InputError(f"--dataset_name {name}: it has no {SPLITS[split][0]} set, but {', '.join(map(str, sets))}")
    given = 0
    for row in sets[chosen].skip(begin).take(number):
        given += 1
        yield row
    if given < number:
        flag, after = f"--stream_{split}_rows {number}", f" after the first {begin}" if begin else ""
        raise InputError(f"{flag}: {name} has only {counted(given, 'row')} in its {chosen} set{after}")

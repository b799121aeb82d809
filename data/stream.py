"""The first rows of a data set on the Hub, streamed because the whole data set is too large."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from data.columns import given_columns, guessed_texts
from data.formats import checked_text
from data.own_sets import SPLITS, split_of, unreadable
from utils import InputError, counted, log


def first_texts(args: argparse.Namespace) -> dict[str, list[Path]]:
    """Split -> the Arrow files with the text of its first rows, for the splits that the run needs.

    The held-out rows are the first rows of the validation set. Without a validation set, they are the first rows of the
    training set, and training uses the rows after them: a later evaluation then finds the same rows, which were not
    trained on. The `datasets` library caches the rows under a name made from these arguments: a second call fetches
    nothing.

    Raises:
        InputError: the data set cannot be read, has no such column, or has too few rows.
    """
    import datasets  # takes seconds

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    name, held_out = args.dataset_name, args.stream_dev_rows or 0
    common = {"name": name, "config": args.dataset_config_name, "columns": args.text_columns}
    common["cache_dir"] = args.cache_dir
    found = {}
    for split, wanted in (("train", args.do_train), ("dev", args.do_eval)):
        if not wanted:
            continue
        number = getattr(args, f"stream_{split}_rows")
        more = {"split": split, "number": number, "held_out": held_out if split == "train" else 0}
        log.info(f"{name}: fetching {counted(number, 'row')} of the {split} set, where they are not kept from before")
        try:
            rows = datasets.Dataset.from_generator(_texts, cache_dir=args.cache_dir, gen_kwargs=common | more)
        except Exception as error:  # the library wraps any exception in its own
            cause = error.__cause__ or error
            raise cause if isinstance(cause, InputError) else unreadable(name, cause) from None
        found[split] = [Path(file["filename"]) for file in rows.cache_files]
    return found


def _texts(
    name: str, config: str | None, columns: str | None, cache_dir: str | None, split: str, number: int, held_out: int
) -> Iterator[dict[str, str]]:
    """Yield only the text columns of the rows: a column that is empty in the first rows would have no type."""
    import datasets

    sets = datasets.load_dataset(name, config, streaming=True, cache_dir=cache_dir)
    chosen, begin = split_of(sets, split), 0
    if split_of(sets, "dev") is None:
        chosen, begin = split_of(sets, "train"), held_out
    if chosen is None:
        raise InputError(f"--dataset_name {name}: it has no {SPLITS[split][0]} set, but {', '.join(map(str, sets))}")
    rows = sets[chosen]
    named = rows.column_names or list(next(iter(rows), {}))
    texts = given_columns("--text_columns", columns, Path(name), named, most=2)
    texts = texts or guessed_texts(Path(name), named, (), needed=False)
    given = 0
    for given, row in enumerate(rows.select_columns(list(texts)).skip(begin).take(number), 1):
        where = f"{name}, row {begin + given} of {chosen}"
        yield {text: "" if row[text] is None else checked_text(row[text], f"column {text!r}", where) for text in texts}
    if given < number:
        flag, after = f"--stream_{split}_rows {number}", f" after the first {begin}" if begin else ""
        raise InputError(f"{flag}: {name} has only {counted(given, 'row')} in its {chosen} set{after}")

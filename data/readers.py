"""A task's folder -> its splits. An unreadable row is an error with file and line, never dropped silently."""

import argparse
import contextlib
import dataclasses
import itertools
import logging
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from data.choices import read_choice_table
from data.classes import named
from data.conll import read_tagged
from data.examples import Tally, read_choices, read_sentences, read_words
from data.formats import row_ids
from data.task_kinds import ChoiceTask, DataSet, Names, RowList, SentenceTask, Share, Task, TokenTask
from data.tasks import names_of
from data.text import TextTask, documents, read_documents
from utils import InputError, log

# kind of task -> function of (task, path, labelled, tally) that returns the examples of a file
READERS: dict[type, Callable] = {
    SentenceTask: read_sentences,
    ChoiceTask: read_choices,
    TokenTask: read_words,
    TextTask: read_documents,
}


class Examples(Sequence[Any]):
    """The examples of one set. Its files are read when the first example is requested.

    labelled: whether each row must have a label; if False, labels are ignored.
    evaluated: a label that the task lacks counts as wrong; otherwise it is an error.
    report: counts of rows with such a label or without one, available after reading.
    told: whether the messages about the files have been logged.
    share: the part of the rows that is used; None for all.
    """

    def __init__(
        self, task: Task, paths: list[Path], labelled: bool, evaluated: bool = False, share: Share | None = None
    ):
        self.task = task
        self.paths = paths
        self.labelled = labelled
        self.evaluated = evaluated
        self.share = share
        self.report: dict[str, int] = {}
        self.told = False

    def read(self) -> list:
        """Read and return all examples, without keeping them.

        Raises:
            InputError: a file is empty or cannot be read, or the task has none of a set's labels; the message names
                file and line.
        """
        tally = Tally(self.evaluated)
        with withheld() if self.told else contextlib.nullcontext():
            rows = [row for path in self.paths for row in read_file(self.task, path, self.labelled, tally)]
            tally.check(self.task)
            if self.share:
                rows = divided(rows, self.share, self.paths)
        self.report, self.told = tally.report(self.task), True
        return rows

    def chunks(self, size: int) -> Iterator[list]:
        """Yield all examples, at most `size` at a time; for plain text, only these are in memory.

        Raises:
            InputError: as for `read`.
        """
        if isinstance(self.task, TextTask):
            stream: Iterator = itertools.chain.from_iterable(documents(self.task, path) for path in self.paths)
        else:
            stream = iter(self.read())
        while chunk := list(itertools.islice(stream, size)):
            yield chunk

    @cached_property
    def _rows(self) -> list:
        return self.read()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        return self._rows[index]

    def __iter__(self) -> Iterator:
        return iter(self._rows)

    def size(self) -> int:
        """The total size of the files, in bytes."""
        return sum(path.stat().st_size for path in self.paths)


@contextlib.contextmanager
def withheld() -> Iterator[list[tuple[int, str]]]:
    """Context that withholds log messages; it yields a list of their (level, message)."""
    messages = []

    def keep(record: logging.LogRecord) -> bool:
        messages.append((record.levelno, record.getMessage()))
        return False

    log.addFilter(keep)
    try:
        yield messages
    finally:
        log.removeFilter(keep)


Rows = TypeVar("Rows", bound=Sized)
Made = TypeVar("Made", bound=Sized)


@dataclass
class Splits(Generic[Rows]):
    """The data of a run: examples, or what `map` makes of them.

    train: None without --do_train.
    eval, test: set name -> examples, the primary set first; empty without --do_eval, --do_test.
    """

    train: Rows | None
    eval: dict[str, Rows]
    test: dict[str, Rows]

    def map(self, function: Callable[[Rows], Made]) -> "Splits[Made]":
        """The same splits with `function` applied to each set."""
        return Splits(
            None if self.train is None else function(self.train),
            {name: function(examples) for name, examples in self.eval.items()},
            {name: function(examples) for name, examples in self.test.items()},
        )

    def primary(self) -> dict[str, Rows]:
        """Split name -> its examples, for the splits that exist; of several sets, the primary one."""
        primary = {} if self.train is None else {"train": self.train}
        return primary | {
            split: next(iter(sets.values())) for split, sets in (("eval", self.eval), ("test", self.test)) if sets
        }

    def counts(self) -> dict[str, int]:
        """The number of examples in each split; of several sets, in the primary one."""
        return {split: len(examples) for split, examples in self.primary().items()}


def read_splits(task: Task, args: argparse.Namespace) -> Splits[Examples]:
    """All sets that the arguments request; their files are located here and read later.

    Raises:
        InputError: a folder or file is missing, or the task has no training set.
    """
    if args.do_train and task.train is None:
        raise InputError(
            f"--do_train: {task.name} is for evaluation alone; train on another task, then give --do_eval"
            " --test_model_file CHECKPOINT"
        )

    def read(data_set: DataSet, **kind: bool) -> Examples | None:
        folder = Path() if task.own else task_folder(args.data_dir, task.name)
        return read_set(task, data_set, folder, **kind)

    def read_sets(sets: Mapping[str, DataSet], **kind: bool) -> dict[str, Examples]:
        found = {name: read(data_set, **kind) for name, data_set in sets.items()}
        return {name: examples for name, examples in found.items() if examples is not None}

    evaluated = {}
    if args.eval_file is not None:  # it does not need the task's folder
        evaluated = {args.eval_file: Examples(task, [Path(args.eval_file)], labelled=True, evaluated=True)}
    elif args.do_eval:
        evaluated = read_sets(getattr(task, args.eval_on), labelled=True, evaluated=True)
    return Splits(
        train=read(task.train, labelled=True) if args.do_train and task.train else None,
        eval=evaluated,
        test=read_sets(task.submissions, labelled=False) if args.do_test else {},
    )


def divided(examples: list, share: Share, paths: Sequence[Path]) -> list:
    """The examples of one part of a set, in the order of the files; those without an id get their number as id.

    Numbers count from 0 over the whole set, without rows that are left out, for example for lack of a gold label. If
    `share.stratified`, the held-out part has the same share of each class as far as there are enough rows, and a class
    with a single row is for training.

    Raises:
        InputError: there are too few examples.
    """
    from sklearn.model_selection import train_test_split

    labels = [getattr(example, "label", None) for example in examples]
    times = Counter(labels) if share.stratified else {}
    drawn = [number for number, label in enumerate(labels) if times.get(label) != 1]
    held_out = max(1, round(share.fraction * len(examples)))
    if not held_out < len(drawn):
        raise InputError(
            f"--dev_fraction {share.fraction:g}: {', '.join(map(str, paths))} has too few rows ({len(examples)}) for"
            " it: give --dev_file"
        )
    kinds = len({labels[number] for number in drawn})
    stratify = None
    if share.stratified and kinds <= min(held_out, len(drawn) - held_out):
        stratify = [labels[number] for number in drawn]
    _, out = train_test_split(drawn, test_size=held_out, random_state=share.seed, stratify=stratify)
    out = set(out)
    kept = [number for number in range(len(examples)) if (number in out) == share.held_out]
    log.info(
        f"{', '.join(map(str, paths))}: {len(kept)} of {len(examples)} rows"
        f" {'held out for the evaluation' if share.held_out else 'for training'} (--dev_fraction {share.fraction:g},"
        f" seed {share.seed}{', each label in proportion' if stratify else ''})"
    )
    for number in kept:
        if examples[number].index is None:
            examples[number].index = str(number)
    return [examples[number] for number in kept]


def with_labels(task: TokenTask, data_dir: str, saved: Names | None = None) -> TokenTask:
    """The task with its tags; if it has none, those of its training file, sorted.

    Args:
        saved: the classes of the model that is evaluated, if any: where they are tags, the file is not needed. A
            checkpoint that is a plain state dict does not name them.

    Raises:
        InputError: the training file is missing or cannot be read.
    """
    if task.labels:
        return task
    if saved and named(saved):
        log.info(f"{task.name}: {len(saved)} tags, those of the model")
        return dataclasses.replace(task, labels=saved)
    assert task.train is not None  # a task without a training set has labels
    paths = _paths(task.train, task_folder(data_dir, task.name))
    assert paths is not None  # a training set is never optional
    sentences = (row for path in paths for row in read_tagged(path, True, task.document_mark))
    labels = sorted({tag for _, tags, _ in sentences for tag in tags})
    log.info(f"{task.name}: {len(labels)} tags, those of {', '.join(map(str, paths))}")
    return dataclasses.replace(task, labels=tuple(labels))


def task_folder(data_dir: str | Path, name: str) -> Path:
    """The folder of a task: `<data_dir>/<name>`, or another of the task's names, in upper or lower case.

    Raises:
        InputError: there is no such folder.
    """
    data_dir = Path(data_dir)
    fetch = f"python -m data.download {name} --data_dir {shlex.quote(str(data_dir))}"
    if not data_dir.is_dir():
        raise InputError(f"--data_dir {data_dir}: no such folder; it must hold a folder {name} (to fetch it: {fetch})")
    try:
        folders = {folder.name.lower(): folder for folder in sorted(data_dir.iterdir()) if folder.is_dir()}
    except OSError as error:
        raise InputError(f"--data_dir {data_dir}: cannot be read ({error.strerror})") from None
    for known in names_of(name):
        if (data_dir / known).is_dir():
            return data_dir / known
        if known.lower() in folders:
            return folders[known.lower()]
    raise InputError(
        f"--data_dir {data_dir}: it has no folder {name} (in upper or lower case); put the files there, or: {fetch}"
    )


def read_set(task: Task, data_set: DataSet, folder: Path, labelled: bool, evaluated: bool = False) -> Examples | None:
    """The examples of one set, or None if the set is optional and its files do not exist.

    Raises:
        InputError: a file is missing.
    """
    part = data_set.part
    if part and (folder / part.file).is_file() and not any((folder / name).is_file() for name in part.split_files):
        assert isinstance(task, SentenceTask)  # no other kind has such a set
        rows = RowList(part.columns, row_ids(folder, part.ids), part.listed)
        return Examples(dataclasses.replace(task, only=rows), [folder / part.file], labelled, evaluated)
    gold = [folder / name for name in data_set.gold if (folder / name).is_file()]
    paths = gold[:1] if labelled and gold else _paths(data_set, folder)
    return None if paths is None else Examples(task, paths, labelled, evaluated, data_set.share)


def _paths(data_set: DataSet, folder: Path) -> list[Path] | None:
    paths = []
    single = any((folder / name).is_file() for name in data_set.instead)
    for names in (data_set.instead,) if single else data_set.files:
        places = [_place(folder, name) for name in names]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            if data_set.optional:
                log.info(f"{folder / names[0]} is not there: left out")
                return None
            undivided = ""
            if part := data_set.part:
                undivided = f"; {part.file} is split only where there is neither {' nor '.join(part.split_files)}"
            raise InputError(
                f"{folder / names[0]}: no such file (looked for {' and '.join(names)} in {folder}{undivided})"
            )
        paths.append(path)
    return paths


def _place(folder: Path, name: str) -> Path:
    """A file of a task's folder, or ("../") of one beside it, also if the folder is a link to elsewhere."""
    return folder.parent / name.removeprefix("../") if name.startswith("../") else folder / name


def read_file(task: Task, path: Path, labelled: bool, tally: Tally | None = None) -> list:
    """The examples of one file in the task's format; `tally` records what is found about their labels.

    Raises:
        InputError: the file is empty or cannot be read; the message names file and line.
    """
    if isinstance(task, ChoiceTask) and task.columns:
        examples = read_choice_table(task.columns, path, labelled, tally)
    else:
        examples = READERS[type(task)](task, path, labelled, tally)
    if not examples:
        raise InputError(f"{path}: the file has no rows")
    return examples

"""Official files -> examples. A row that cannot be read is an error with file and line, never dropped silently."""

import argparse
import ast
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.tasks import DataSet, SentenceTask
from utils import InputError, log

INDEX_COLUMNS = ("index", "id", "uid")


@dataclass(slots=True)
class Example:
    """One row.

    label: class index, or score of a regression; None in a test file.
    index: what the file calls the row; None where it does not say.
    """

    texts: tuple[str, ...]
    label: int | float | None
    index: str | None


@dataclass
class Splits:
    """What a run works on: lists of examples, or what `map` makes of them.

    train: None without --do_train.
    eval, test: set name -> examples, the primary set first; empty without --do_eval, --do_test.
    """

    train: list | None
    eval: dict[str, list]
    test: dict[str, list]

    def map(self, function: Callable[[list], object]) -> "Splits":
        """The same splits with `function` applied to each list."""
        return Splits(
            None if self.train is None else function(self.train),
            {name: function(examples) for name, examples in self.eval.items()},
            {name: function(examples) for name, examples in self.test.items()},
        )

    def counts(self) -> dict[str, int]:
        """How many examples each split has; of several sets, the primary one."""
        counts = {} if self.train is None else {"train": len(self.train)}
        for split, sets in (("eval", self.eval), ("test", self.test)):
            if sets:
                counts[split] = len(next(iter(sets.values())))
        return counts


def read_splits(task: SentenceTask, args: argparse.Namespace) -> Splits:
    """All examples that the arguments ask for.

    Raises:
        InputError: a folder or file is missing, empty or not readable.
    """
    folder = task_folder(args.data_dir, task.name)

    def read_sets(sets: Mapping[str, DataSet], labelled: bool) -> dict[str, list[Example]]:
        read = {name: read_set(task, data_set, folder, labelled) for name, data_set in sets.items()}
        return {name: examples for name, examples in read.items() if examples is not None}

    return Splits(
        train=read_set(task, task.train, folder, labelled=True) if args.do_train else None,
        eval=read_sets(getattr(task, args.eval_on), labelled=True) if args.do_eval else {},
        test=read_sets(task.submissions, labelled=False) if args.do_test else {},
    )


def task_folder(data_dir: str | Path, name: str) -> Path:
    """`<data_dir>/<name>`, whatever the case of the folder's name.

    Raises:
        InputError: there is no such folder.
    """
    data_dir = Path(data_dir)
    fetch = f"python -m data.download {name} --data_dir {shlex.quote(str(data_dir))}"
    if not data_dir.is_dir():
        raise InputError(f"--data_dir {data_dir}: no such folder; it must hold a folder {name} (to fetch it: {fetch})")
    for folder in sorted(data_dir.iterdir()):
        if folder.name.lower() == name.lower() and folder.is_dir():
            return folder
    raise InputError(f"--data_dir {data_dir}: it has no folder {name} in any case; put the files there, or: {fetch}")


def read_set(task: SentenceTask, data_set: DataSet, folder: Path, labelled: bool) -> list[Example] | None:
    """All examples of one set, or None where the set is optional and not there.

    Args:
        labelled: a label is required in each row; without it, none is looked for.

    Raises:
        InputError: a file is missing, empty or not readable; the message names file and line.
    """
    examples = []
    for names in data_set.files:
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            if data_set.optional:
                log.info(f"{folder / names[0]} is not there: left out")
                return None
            raise InputError(f"{folder / names[0]}: no such file (looked for {' and '.join(names)} in {folder})")
        examples += read_file(task, path, labelled)
    return examples


def read_file(task: SentenceTask, path: Path, labelled: bool) -> list[Example]:
    """The examples of one file in the task's format: tab-separated with a header line, or one JSON object a line."""
    if path.suffix == ".jsonl":
        rows = _json_rows(path)
    else:
        rows = _tab_separated_rows(path, task.header if labelled else None, task.broken_rows if labelled else 0)
    examples = []
    for line, row in rows:
        where = f"{path}, line {line}"
        texts = tuple(_decoded(_column(row, names, where), where) for names in task.text)
        label = _label(task, _column(row, task.label, where), where) if labelled else None
        index = next((str(row[name]) for name in INDEX_COLUMNS if name in row), None)
        examples.append(Example(texts, label, index))
    if not examples:
        raise InputError(f"{path}: the file has no rows")
    return examples


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) of a UTF-8 file, a byte-order mark left out (MRPC has one)."""
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            line = 0
            for line, text in enumerate(file, 1):
                if "\0" in text:
                    raise InputError(f"{path}, line {line}: the line has a NUL byte; is this a text file?")
                yield line, text.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid UTF-8 near byte {_bad_byte(path)} ({error.reason}); convert it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _bad_byte(path: Path) -> int:
    # The decoder of an open file counts from the start of its buffer, not of the file.
    try:
        path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _tab_separated_rows(path: Path, header: tuple[str, ...] | None, broken_allowed: int) -> Iterator[tuple[int, dict]]:
    """(line number, column -> value); quotes are literal. `header` is for files without a header line."""
    lines = _lines(path)
    columns = header or tuple(next(lines, (0, ""))[1].split("\t"))
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}, line 1: the header names a column twice")
    broken = []
    for line, text in lines:
        values = text.split("\t")
        if len(values) < len(columns) and len(broken) < broken_allowed:
            broken.append(line)
        elif len(values) != len(columns):
            raise InputError(f"{path}, line {line}: {len(values)} columns where {len(columns)} are expected")
        else:
            yield line, dict(zip(columns, values, strict=True))
    if broken:
        log.warning(
            f"{path}: {len(broken)} rows with too few columns are left out (lines {', '.join(map(str, broken))})"
        )


def _json_rows(path: Path) -> Iterator[tuple[int, dict]]:
    for line, text in _lines(path):
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {line}: not valid JSON ({error.msg}, column {error.colno})") from None
        except RecursionError:
            raise InputError(f"{path}, line {line}: JSON nested too deeply to be a row") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {line}: a JSON object is expected, not {type(row).__name__}")
        yield line, row


def _column(row: dict, names: tuple[str, ...], where: str) -> str:
    for name in names:
        if name in row:
            if not isinstance(row[name], str):
                raise InputError(f"{where}: column {name!r} must be text, not {type(row[name]).__name__}")
            return row[name]
    raise InputError(f"{where}: there is no column {' or '.join(map(repr, names))}")


def _decoded(text: str, where: str) -> str:
    """Text as it is, or out of the b'...' that the official PAWS-QQP script leaves around it."""
    if not (text[:2] in ("b'", 'b"') and text[-1] == text[1] and len(text) > 2):
        return text
    try:
        return ast.literal_eval(text).decode("utf-8")
    except (ValueError, SyntaxError):
        raise InputError(f"{where}: {text[:20]}... is neither text nor a Python bytes literal in UTF-8") from None


def _label(task: SentenceTask, word: str, where: str) -> int | float:
    if task.regression:
        low, high = task.score_range
        try:
            score = float(word)
        except ValueError:
            raise InputError(f"{where}: the score {word!r} is not a number") from None
        if not low <= score <= high:
            raise InputError(f"{where}: the score {word} is outside {low:g} to {high:g}")
        return score
    word = task.aliases.get(word, word)
    if word not in task.labels:
        raise InputError(f"{where}: unknown label {word!r}; {task.name} has {', '.join(task.labels)}")
    return task.labels.index(word)

"""Plain text for masked language modelling: the documents of text files and of tables with a text column."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from data.columns import SUFFIXES
from data.formats import has_blank_lines, lines, place_of, rows_of, text_column
from data.task_kinds import Names, Task
from utils import InputError

TEXT = ".txt"
SUFFIXES_OF_TEXT = (TEXT, *SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """Masked language modelling on plain text.

    text: the text columns of tables; if there are two, a document is the first followed by the second.
    """

    script: ClassVar[str] = "run_mlm"
    metrics: Names = ("accuracy", "perplexity")
    text: Names = ()
    own: bool = True


def documents(task: TextTask, path: Path) -> Iterator[str]:
    """Yield the documents of a file, one at a time; those without text are left out.

    Raises:
        InputError: the file cannot be read or has no text, or a row has something other than text; the message names
            the line.
    """
    found = False
    for text in _of_text_file(path) if path.suffix.lower() == TEXT else _of_table(path, task.text):
        if text.strip():
            found = True
            yield text
    if not found:
        raise InputError(f"{path}: there is no text in it")


def read_documents(task: TextTask, path: Path, *_) -> list[str]:
    """All `documents` of a file."""
    return list(documents(task, path))


def _of_text_file(path: Path) -> Iterator[str]:
    """Yield the blocks between blank lines; if no blank line separates text, each line is a document."""
    if not has_blank_lines(path):
        yield from (text for _, text in lines(path))
        return
    document: list[str] = []
    for _, text in itertools.chain(lines(path), [(0, "")]):
        if text.strip():
            document.append(text)
        elif document:
            yield "\n".join(document)
            document = []


def _of_table(path: Path, columns: Names) -> Iterator[str]:
    for number, row in rows_of(path):
        where = place_of(path, number)
        yield "\n".join(text_column(row, (column,), where) for column in columns)

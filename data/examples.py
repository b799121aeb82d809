"""Rows of official files -> examples, a reader for each kind of task. A row that cannot be read is never dropped."""

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.formats import (
    checked_text,
    csv_rows,
    json_document,
    json_rows,
    quoted,
    tab_separated_rows,
    text_column,
    word_lines,
)
from data.tasks import ChoiceTask, SentenceTask, TokenTask
from utils import InputError, log

INDEX_COLUMNS = ("index", "id", "uid", "ind", "fold-ind", "pairID")
TREEBANK_WIDTH = 10  # columns of the CoNLL-X form


@dataclass(slots=True)
class Example:
    """One row of a sentence task.

    label: class index, or score of a regression; None in a test file.
    index: what the file calls the row; None where it does not say.
    groups: what the row has in the columns that are `groups` of the task.
    """

    texts: tuple[str, ...]
    label: int | float | None
    index: str | None
    groups: tuple[str, ...] = ()


@dataclass(slots=True)
class ChoiceExample:
    """A question about a context, with its possible answers.

    question: a choice goes in place of its `_`, or after it where it has none.
    label: index of the right choice; None in a test file.
    index: as for `Example`.
    """

    context: str
    question: str
    choices: tuple[str, ...]
    label: int | None
    index: str | None


@dataclass(slots=True)
class WordsExample:
    """A sentence of a token task.

    labels: class index of each word; None in a test file.
    """

    words: list[str]
    labels: list[int] | None


def read_sentences(task: SentenceTask, path: Path, labelled: bool) -> list[Example]:
    """A file of a sentence task: tab-separated with a header line, or one JSON object a line."""
    if path.suffix == ".jsonl":
        rows = json_rows(path)
    else:
        rows = tab_separated_rows(path, task.header if labelled else None, task.broken_rows if labelled else 0)
    examples = []
    for line, row in rows:
        where = f"{path}, line {line}"
        texts = tuple(_decoded(text_column(row, names, where), where) for names in task.text)
        label = _label(task, text_column(row, task.label, where), where) if labelled else None
        groups = tuple(str(row[name]) for name in task.groups if name in row)
        examples.append(Example(texts, label, _index(row, where), groups))
    return examples


def _index(row: dict, where: str) -> str | None:
    """What the row is called, as it will stand in a table."""
    name = next((name for name in INDEX_COLUMNS if name in row), None)
    return None if name is None else _in_a_table(checked_text(str(row[name]), f"column {name!r}", where))


def _in_a_table(text: str) -> str:
    """On one line and without a tab."""
    return " ".join(text.split())


def _decoded(text: str, where: str) -> str:
    """Text as it is, or out of the b'...' that the official PAWS-QQP script leaves around it."""
    if not (text[:2] in ("b'", 'b"') and text[-1] == text[1] and len(text) > 2):
        return text
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            return ast.literal_eval(text).decode("utf-8")
    except (ValueError, SyntaxError, AttributeError, MemoryError, RecursionError):  # the parser has its own limits
        raise InputError(f"{where}: {quoted(text)} is neither text nor a Python bytes literal in UTF-8") from None


def _label(task: SentenceTask, word: str, where: str) -> int | float:
    if task.regression:
        low, high = task.score_range
        try:
            score = float(word)
        except ValueError:
            raise InputError(f"{where}: the score {quoted(word)} is not a number") from None
        if not low <= score <= high:
            raise InputError(f"{where}: the score {quoted(word)} is outside {low:g} to {high:g}")
        return score
    word = task.aliases.get(word, word)
    if word not in task.labels:
        raise InputError(f"{where}: unknown label {quoted(word)}; {task.name} has {', '.join(task.labels)}")
    return task.labels.index(word)


def read_choices(task: ChoiceTask, path: Path, labelled: bool) -> list[ChoiceExample]:
    """A file of a multiple-choice task; every row has as many choices as the first."""
    examples = []
    for where, example in _choice_rows(path)(task, path, labelled):
        expected = len(examples[0].choices) if examples else max(2, len(example.choices))
        if len(example.choices) != expected:
            raise InputError(f"{where}: {len(example.choices)} choices where {expected} are expected")
        examples.append(example)
    return examples


def _dialogues(task: ChoiceTask, path: Path, labelled: bool) -> Iterator[tuple[str, ChoiceExample]]:
    """DREAM: a list of [turns, questions, id]."""
    dialogues = json_document(path)
    if not isinstance(dialogues, list):
        raise InputError(f"{path}: a list of dialogues is expected, not {type(dialogues).__name__}")
    kept = questions_in_all = 0
    for number, dialogue in enumerate(dialogues, 1):
        place = f"{path}, dialogue {number}"
        match dialogue:
            case [list(turns), list(questions), str(name)]:
                context = " ".join(checked_text(turn, "a turn", place) for turn in turns)
                name = _in_a_table(checked_text(name, "the id", place))
            case _:
                raise InputError(f"{place}: [turns, questions, id] is expected")
        for ordinal, row in enumerate(questions[:1] if task.questions == "first" else questions, 1):
            where = f"{place}, question {ordinal}"
            if not isinstance(row, dict):
                raise InputError(f"{where}: a JSON object is expected, not {type(row).__name__}")
            choices = _texts(row, "choice", where)
            answer = text_column(row, ("answer",), where) if labelled else None
            if labelled and answer not in choices:
                raise InputError(f"{where}: the answer {quoted(answer)} is not among the choices")
            label = choices.index(answer) if labelled else None
            question = text_column(row, ("question",), where)
            yield where, ChoiceExample(context, question, choices, label, f"{name}/{ordinal}")
            kept += 1
        questions_in_all += len(questions)
    which = "the first of each dialogue" if task.questions == "first" else "all of each dialogue"
    log.info(f"{path}: {kept} of {questions_in_all} questions, {which}")


def _csv_endings(task: ChoiceTask, path: Path, labelled: bool) -> Iterator[tuple[str, ChoiceExample]]:
    """SWAG: the endings continue the sentence that `sent2` begins."""
    for line, row in csv_rows(path):
        where = f"{path}, line {line}"
        context, begun = text_column(row, ("sent1",), where), text_column(row, ("sent2",), where)
        choices = tuple(value for name, value in row.items() if re.fullmatch(r"ending\d+", name))
        yield where, ChoiceExample(context, begun, choices, _choice(row, choices, where, labelled), _index(row, where))


def _json_endings(task: ChoiceTask, path: Path, labelled: bool) -> Iterator[tuple[str, ChoiceExample]]:
    """HellaSWAG: the context goes up to the ending; `ctx_a` and `ctx_b` are its halves."""
    for line, row in json_rows(path):
        where = f"{path}, line {line}"
        halves = ("ctx",) if "ctx" in row or "ctx_a" not in row else ("ctx_a", "ctx_b")
        context = " ".join(text_column(row, (name,), where) for name in halves).strip()
        choices = _texts(row, "endings", where)
        # As in the release, the question is all blank: the ending alone is the second text.
        yield where, ChoiceExample(context, "_", choices, _choice(row, choices, where, labelled), _index(row, where))


CHOICE_FILES: dict[str, Callable] = {".json": _dialogues, ".csv": _csv_endings, ".jsonl": _json_endings}


def _choice_rows(path: Path) -> Callable:
    if path.suffix not in CHOICE_FILES:
        raise InputError(f"{path}: the name of a multiple-choice file ends in {', '.join(CHOICE_FILES)}")
    return CHOICE_FILES[path.suffix]


def _texts(row: dict, name: str, where: str) -> tuple[str, ...]:
    texts = row.get(name)
    if not isinstance(texts, list):
        raise InputError(f"{where}: there is no list {name!r}")
    return tuple(checked_text(text, f"each of {name!r}", where) for text in texts)


def _choice(row: dict, choices: tuple[str, ...], where: str, labelled: bool) -> int | None:
    """The index of the right choice in column `label`, a number or its digits."""
    if not labelled:
        return None
    if "label" not in row:
        raise InputError(f"{where}: there is no column 'label'")
    if not choices:
        raise InputError(f"{where}: there are no choices")
    label = str(row["label"])
    if label not in map(str, range(len(choices))):
        raise InputError(f"{where}: the label {quoted(label)} is not among 0 to {len(choices) - 1}")
    return int(label)


def read_words(task: TokenTask, path: Path, labelled: bool) -> list[WordsExample]:
    """A file of a token task."""
    examples, converted = [], 0
    for words, tags, line in read_tagged(path, labelled):
        labels = None
        if labelled:
            if task.iob1:
                bio = as_bio(tags)
                converted += bio != tags
                tags = bio
            unknown = next((place for place, tag in enumerate(tags) if tag not in task.labels), None)
            if unknown is not None:
                raise InputError(
                    f"{path}, line {line + unknown}: unknown tag {quoted(tags[unknown])};"
                    f" {task.name} has {', '.join(task.labels)}"
                )
            labels = [task.labels.index(tag) for tag in tags]
        examples.append(WordsExample(words, labels))
    if converted:
        log.info(f"{path}: {converted} sentences in IOB1, where a span may open with I-, turned into BIO")
    return examples


def read_tagged(path: Path, labelled: bool) -> Iterator[tuple[list[str], list[str], int]]:
    """(words, tags, line of the first word) of each sentence: the first and the last column of a row.

    In the ten-column form in which treebanks come they are the second and the fourth, as the release reads PTB.

    Args:
        labelled: a tag is required in each row; without it, the tags are empty.

    Raises:
        InputError: a row has no word, no tag, or another number of columns than the first.
    """
    words, tags, width = [], [], None
    for line, columns in word_lines(path):
        if not columns:
            if words:
                yield words, tags, line - len(words)
            words, tags = [], []
            continue
        width = width or len(columns)
        word, tag = (1, 3) if width == TREEBANK_WIDTH else (0, -1)
        if labelled and len(columns) == 1:
            raise InputError(f"{path}, line {line}: the row has no tag; a word and its tag are expected")
        if len(columns) != width:
            raise InputError(f"{path}, line {line}: {len(columns)} columns where {width} are expected")
        if not columns[word]:
            raise InputError(f"{path}, line {line}: the row has no word")
        words.append(columns[word])
        if labelled:
            tags.append(columns[tag])
    if words:
        yield words, tags, line - len(words) + 1


def as_bio(tags: list[str]) -> list[str]:
    """Tags of a sentence in IOB1 or BIO -> BIO: an I- that does not continue a span of its type opens one."""
    bio = []
    for tag in tags:
        kind, before = tag[2:], bio[-1] if bio else "O"
        bio.append(f"B-{kind}" if tag.startswith("I-") and before not in (f"B-{kind}", tag) else tag)
    return bio

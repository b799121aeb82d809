"""Rows of official files -> examples, with a reader for each kind of task. An unreadable row is an error.

A label that the task lacks is an error too, except in an evaluated set, whose examples keep it by its name.
"""

import ast
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data.conll import as_bio, read_tagged
from data.formats import (
    TABLES,
    checked_text,
    column_name,
    csv_rows,
    json_document,
    json_rows,
    lines_left_out,
    place_of,
    quoted,
    tab_separated_rows,
    text_column,
)
from data.task_kinds import BINARY, IGNORED_LABEL, ChoiceTask, RowList, SentenceTask, Task, TokenTask
from utils import InputError, counted, log

INDEX_COLUMNS = ("index", "id", "uid", "ind", "fold-ind", "pairID", "idx", "guid")
LISTED = 10  # unknown labels listed in a message
MOST_LABELS = 30  # of the labels that a task has


@dataclass(slots=True)
class Example:
    """One row of a sentence task.

    label: class index, the name of a class that the task lacks, or the score for a regression; None in a test file.
    index: the row's id in the file; None if it has none.
    groups: the row's values in the columns that the task lists as `groups`.
    """

    texts: tuple[str, ...]
    label: int | float | str | None
    index: str | None
    groups: tuple[str, ...] = ()


@dataclass(slots=True)
class ChoiceExample:
    """A question about a context, with its possible answers.

    question: each choice is appended to it or, if it is a `cloze`, replaces its `_`.
    label: index of the right choice, or the answer itself if it is not one of the choices; None in a test file.
    index: as for `Example`.
    names: the file's name for each choice, in the user's own data.
    """

    context: str
    question: str
    choices: tuple[str, ...]
    label: int | str | None
    index: str | None
    cloze: bool = False
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class WordsExample:
    """A sentence of a token task.

    labels: class index of each word, or the name of a tag that the task lacks; None in a test file.
    index: as for `Example`.
    """

    words: list[str]
    labels: list[int | str] | None
    index: str | None = None


@dataclass
class Tally:
    """What the readers learn about the labels of a set, across its files.

    evaluated: a label that the task lacks is noted; otherwise it is an error.
    labels: how many there are; in a token task, one per word.
    unknown: (file and line, label) of the labels that the task lacks.
    numbers: how many labels are numbers in place of class names.
    no_gold_label: how many rows are left out because they have no gold label.
    """

    evaluated: bool = False
    labels: int = 0
    numbers: int = 0
    unknown: list[tuple[str, str]] = field(default_factory=list)
    no_gold_label: int = 0

    def classes(self, task: SentenceTask | TokenTask, labels: list[str], where: Callable[[int], str]) -> list:
        """The class of each label, or its name if the task lacks it; `where` gives the file and line of a label.

        Raises:
            InputError: the task lacks a label and the set is not evaluated, or a label is empty.
        """
        self.labels += len(labels)
        classes = []
        for place, label in enumerate(labels):
            known = label in task.labels
            if not known:
                if not self.evaluated or not label.strip():
                    raise InputError(_lacks(task, label, where(place)))
                self.unknown.append((where(place), label))
            classes.append(task.labels.index(label) if known else label)
        return classes

    def check(self, task: Task) -> None:
        """Log, once for the whole set, how its labels were read and which of them count as wrong.

        Raises:
            InputError: the task lacks all of the labels.
        """
        if isinstance(task, SentenceTask) and self.numbers:
            order = ", ".join(f"{number} {label}" for number, label in enumerate(task.numbered))
            said = f"{counted(self.numbers, 'label')} read from numbers, in Hugging Face's order"
            log.info(f"{task.name}: {said}: {order}")
        if not self.unknown:
            return
        where, label = self.unknown[0]
        names = sorted({label for _, label in self.unknown})
        shown = ", ".join(map(quoted, names[:LISTED])) + (", ..." if len(names) > LISTED else "")
        if isinstance(task, ChoiceTask):
            wrong = f"{where}: the answer {quoted(label)} is none of its choices; no answer of this set is"
            lacking = "an answer that is none of its choices"
        else:
            assert isinstance(task, SentenceTask | TokenTask)  # `classes` accepts no other kind
            wrong = f"{_lacks(task, label, where)}; no label of this set is known: is it another task's?"
            lacking = f"a label that {task.name} does not have"
        if len(self.unknown) == self.labels:
            raise InputError(wrong)
        unit = _labelled_unit(task)
        first = f"the only {unit}" if len(self.unknown) == 1 else f"the first of {len(self.unknown)} {unit}s"
        log.warning(
            f"{where}: {first} (of {self.labels}) with {lacking} ({shown}); such a {unit} counts as wrong and gives no"
            " loss"
        )

    def report(self, task: Task) -> dict[str, int]:
        """The counts that are not zero, for the results."""
        unknown = f"{_labelled_unit(task)}s_with_unknown_label"
        figures = {unknown: len(self.unknown), "rows_without_gold_label": self.no_gold_label}
        return {name: number for name, number in figures.items() if number}


def _labelled_unit(task: Task) -> str:
    """The unit that has a label: a row or a word."""
    return "word" if isinstance(task, TokenTask) else "row"


def _lacks(task: SentenceTask | TokenTask, label: str, where: str) -> str:
    kind = "tag" if isinstance(task, TokenTask) else "label"
    known = ", ".join(task.labels[:MOST_LABELS]) + ", ..." * (len(task.labels) > MOST_LABELS)
    return f"{where}: unknown {kind} {quoted(label)}; {task.name} has {known}"


def read_sentences(task: SentenceTask, path: Path, labelled: bool, tally: Tally | None = None) -> list[Example]:
    """Read a file of a sentence task: by suffix one of `data.formats.TABLES`, else tab-separated with a header line."""
    tally = tally or Tally()
    if path.suffix.lower() in TABLES:
        rows = TABLES[path.suffix.lower()](path)
    else:
        rows = tab_separated_rows(path, task.header if labelled else None, task.broken_rows if labelled else 0)
    examples, left_out, blank = [], [], []
    for line, row in _part(path, rows, task.only) if task.only else rows:
        where = place_of(path, line)
        texts = tuple(text_column(row, names, where) for names in task.text)
        if task.bytes_literals:
            texts = tuple(_decoded(text, where) for text in texts)
        label = _label(task, row, where, tally) if labelled else None
        if labelled and label is None:
            left_out.append(line)
            continue
        if not any(map(str.strip, texts)):
            blank.append(where)
        groups = tuple(str(row[name]) for name in task.groups if name in row)
        examples.append(Example(texts, label, index_of(row, where), groups))
    if blank:
        log.warning(f"{blank[0]}: no text{f', as in {len(blank) - 1} more of its rows' if len(blank) > 1 else ''}")
    if left_out:
        tally.no_gold_label += len(left_out)
        log.warning(lines_left_out(path, left_out, "without a gold label"))
        if not examples:
            raise InputError(f"{path}: none of the rows has a gold label")
    return examples


def _part(path: Path, rows: Iterator[tuple[int, dict]], only: RowList) -> Iterator[tuple[int, dict]]:
    """The rows of one of the two sets in a file; their number is logged."""
    ids, found, kept, total = set(only.ids), set(), 0, 0
    for line, row in rows:
        row_id = tuple(text_column(row, (name,), f"{path}, line {line}") for name in only.columns)
        total += 1
        if row_id in ids:
            found.add(row_id)
        if (row_id in ids) == only.listed:
            kept += 1
            yield line, row
    log.info(f"{path}: {kept} of {total} rows, those that are {'' if only.listed else 'not '}listed as dev rows")
    if only.listed and len(found) < len(ids):
        log.warning(f"{path}: it has {len(found)} of the {len(ids)} rows that are listed as dev rows")


def index_of(row: dict, where: str) -> str | None:
    """The row's id, in a form that fits into a table."""
    name = next((name for name in _index_columns(tuple(row)) if row[name] not in (None, "")), None)
    return None if name is None else on_one_line(checked_text(str(row[name]), f"column {name!r}", where))


@functools.lru_cache
def _index_columns(columns: tuple[str, ...]) -> list[str]:
    """The columns that may have the row's id, in any case; the first with a value counts."""
    plain = {column.strip().lower(): column for column in reversed(columns)}
    found = (name if name in columns else plain.get(name.lower()) for name in INDEX_COLUMNS)
    return [name for name in found if name is not None]


def on_one_line(text: str) -> str:
    """The text with single spaces in place of all white space."""
    return " ".join(text.split())


def _decoded(text: str, where: str) -> str:
    """The text, without the b'...' that the official PAWS-QQP script leaves around it."""
    if not (text[:2] in ("b'", 'b"') and text[-1] == text[1] and len(text) > 2):
        return text
    try:
        with warnings.catch_warnings(action="ignore"):  # warnings about unknown escapes
            return ast.literal_eval(text).decode("utf-8")
    except (ValueError, SyntaxError, AttributeError, MemoryError, RecursionError):  # the parser has its own limits
        raise InputError(f"{where}: {quoted(text)} is neither text nor a Python bytes literal in UTF-8") from None


def _label(task: SentenceTask, row: dict, where: str, tally: Tally) -> int | float | str | None:
    """The label in a row; None if the row says that it has no gold label."""
    name = column_name(row, task.label, where)
    value = row[name]
    if value is None and task.no_gold_label:
        return None
    is_number = type(value) in (int, float)
    if isinstance(value, bool) and {*task.labels} == {*BINARY}:
        value = int(value)
    word = label_word(value, name, where) if task.own else checked_text(value, f"column {name!r}", where)
    if task.regression:
        low, high = task.score_range or (-math.inf, math.inf)
        try:
            score = float(word)
        except ValueError:
            raise InputError(f"{where}: the score {quoted(word)} is not a number") from None
        if task.own and not math.isfinite(score):
            raise InputError(f"{where}: the score {quoted(word)} is not a finite number")
        if not low <= score <= high:
            raise InputError(f"{where}: the score {quoted(word)} is outside {low:g} to {high:g}")
        return score
    if word not in task.labels:
        word = whole(word)
    if word in task.no_gold_label and word not in task.labels:
        return None
    if is_number and word not in task.labels and word in map(str, range(len(task.numbered))):
        word = task.numbered[int(word)]
        tally.numbers += 1
    return tally.classes(task, [task.aliases.get(word, word)], lambda _: where)[0]


def label_word(value, name: str, where: str) -> str:
    """The label in a column of the user's own data: text, a number, or a boolean."""
    return str(value) if isinstance(value, bool) else checked_text(value, f"column {name!r}", where).strip()


def whole(word: str) -> str:
    """The number of a class or choice without the decimals of float columns: 1 for 1.0."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", word)


def read_choices(task: ChoiceTask, path: Path, labelled: bool, _: Tally | None = None) -> list[ChoiceExample]:
    """Read a file of a multiple-choice task; every row must have as many choices as the first."""
    examples: list[ChoiceExample] = []
    for where, example in _choice_rows(path)(task, path, labelled):
        expected = len(examples[0].choices) if examples else max(2, len(example.choices))
        if len(example.choices) != expected:
            raise InputError(f"{where}: {counted(len(example.choices), 'choice')} where {expected} are expected")
        examples.append(example)
    return examples


def _dialogues(task: ChoiceTask, path: Path, labelled: bool) -> Iterator[tuple[str, ChoiceExample]]:
    """Read DREAM: a list of [turns, questions, id]."""
    dialogues = json_document(path)
    if not isinstance(dialogues, list):
        raise InputError(f"{path}: a list of dialogues is expected, not {type(dialogues).__name__}")
    kept = questions_in_all = 0
    for number, dialogue in enumerate(dialogues, 1):
        place = f"{path}, dialogue {number}"
        match dialogue:
            case [list(turns), list(questions), str() | int() | float() as name]:
                context = " ".join(checked_text(turn, "a turn", place) for turn in turns)
                name = on_one_line(checked_text(name, "the id", place))
            case _:
                raise InputError(f"{place}: [turns, questions, id] is expected")
        for ordinal, row in enumerate(questions[:1] if task.questions == "first" else questions, 1):
            where = f"{place}, question {ordinal}"
            if not isinstance(row, dict):
                raise InputError(f"{where}: a JSON object is expected, not {type(row).__name__}")
            choices = _texts(row, "choice", where)
            label = None
            if labelled:
                answer = text_column(row, ("answer",), where)
                if answer not in choices:
                    raise InputError(f"{where}: the answer {quoted(answer)} is not among the choices")
                label = choices.index(answer)
            question = text_column(row, ("question",), where)
            yield where, ChoiceExample(context, question, choices, label, f"{name}/{ordinal}", cloze="_" in question)
            kept += 1
        questions_in_all += len(questions)
    which = "the first of each dialogue" if task.questions == "first" else "all of each dialogue"
    log.info(f"{path}: {kept} of {questions_in_all} questions, {which}")


def _csv_endings(task: ChoiceTask, path: Path, labelled: bool) -> Iterator[tuple[str, ChoiceExample]]:
    """Read SWAG: the endings continue the sentence that `sent2` begins."""
    for line, row in csv_rows(path):
        where = f"{path}, line {line}"
        context, begun = text_column(row, ("sent1",), where), text_column(row, ("sent2",), where)
        choices = tuple(value for name, value in row.items() if re.fullmatch(r"ending\d+", name))
        yield (
            where,
            ChoiceExample(context, begun, choices, _choice(row, choices, where, labelled), index_of(row, where)),
        )


def _json_endings(task: ChoiceTask, path: Path, labelled: bool) -> Iterator[tuple[str, ChoiceExample]]:
    """Read HellaSWAG: the context is all text before the ending; `ctx_a` and `ctx_b` are its halves."""
    for line, row in json_rows(path):
        where = f"{path}, line {line}"
        halves = ("ctx",) if "ctx" in row or "ctx_a" not in row else ("ctx_a", "ctx_b")
        context = " ".join(text_column(row, (name,), where) for name in halves).strip()
        choices = _texts(row, "endings", where)
        label = _choice(row, choices, where, labelled)
        # As in the release, the question is only a blank: the second text is the ending alone.
        yield where, ChoiceExample(context, "_", choices, label, index_of(row, where), cloze=True)


CHOICE_FILES: dict[str, Callable] = {".json": _dialogues, ".csv": _csv_endings, ".jsonl": _json_endings}


def _choice_rows(path: Path) -> Callable:
    if path.suffix not in CHOICE_FILES:
        raise InputError(f"{path}: the name of a multiple-choice file ends in {', '.join(CHOICE_FILES)}")
    return CHOICE_FILES[path.suffix]


def _texts(row: dict, name: str, where: str) -> tuple[str, ...]:
    texts = row.get(name)
    if isinstance(texts, str):
        raise InputError(f"{where}: {name!r} is one text where a list of texts is expected")
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
    label = whole(str(row["label"]))
    if label not in map(str, range(len(choices))):
        raise InputError(f"{where}: the label {quoted(label)} is not among 0 to {len(choices) - 1}")
    return int(label)


def read_words(task: TokenTask, path: Path, labelled: bool, tally: Tally | None = None) -> list[WordsExample]:
    """Read a file of a token task: a table with one sentence per row, or a word and its tag per line."""
    tally = tally or Tally()
    if task.columns and path.suffix.lower() in SENTENCE_TABLES:
        rows = tagged_rows(path, *task.columns, labelled)
        return [
            WordsExample(words, tally.classes(task, tags, _at(where)) if labelled else None, index)
            for words, tags, where, index in rows
        ]
    examples, converted = [], 0
    for words, tags, places in read_tagged(path, labelled, task.document_mark):
        labels = None
        if labelled:
            if task.iob1:
                bio = as_bio(tags)
                converted += bio != tags
                tags = bio
            labels = tally.classes(task, tags, _at_lines(path, places))
        examples.append(WordsExample(words, labels))
    if converted:
        log.info(f"{path}: {counted(converted, 'sentence')} in IOB1, where a span may open with I-, turned into BIO")
    return examples


def _at(where: str) -> Callable[[int], str]:
    return lambda _: where


def _at_lines(path: Path, places: list[int]) -> Callable[[int], str]:
    return lambda word: f"{path}, line {places[word]}"


# Formats that can hold lists.
SENTENCE_TABLES = (".json", ".jsonl", ".parquet", ".arrow")


def tagged_rows(
    path: Path, words: str, tags: str, labelled: bool
) -> Iterator[tuple[list[str], list[str], str, str | None]]:
    """Yield (words, tags, file and row, row id) for each row of a table with these two list columns.

    Args:
        labelled: whether tags are required; if False, they are empty.

    Raises:
        InputError: a row lacks such a list, or does not have one tag per word.
    """
    for number, row in TABLES[path.suffix.lower()](path):
        where = place_of(path, number)
        found = _texts(row, words, where)
        said = []
        if labelled:
            if not isinstance(row.get(tags), list):
                raise InputError(f"{where}: there is no list {tags!r}")
            said = [whole(checked_text(tag, f"each of {tags!r}", where).strip()) for tag in row[tags]]
            if str(IGNORED_LABEL) in said:
                raise InputError(f"{where}: {IGNORED_LABEL} in {tags!r} stands for no tag: give each word its tag")
            if len(said) != len(found):
                many = counted(len(said), "tag"), counted(len(found), "word")
                raise InputError(f"{where}: {many[0]} in {tags!r} for {many[1]} in {words!r}")
        yield list(found), said, where, index_of(row, where)

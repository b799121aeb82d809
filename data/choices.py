"""Multiple choice in the user's own tables: choices in one list or one column each, answers in various forms."""

import itertools
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.examples import ChoiceExample, Tally, index_of, whole
from data.formats import checked_text, place_of, quoted, rows_of, text_column
from data.task_kinds import ChoiceColumns
from utils import InputError, counted, log

# A blank in a question stands alone: an underscore inside a word is not a blank.
BLANK, IN_A_WORD = re.compile(r"(?<!\w)_+(?!\w)"), re.compile(r"[^\W_]_+[^\W_]")


@dataclass
class Choices:
    """The choices of a row.

    texts: the text of each choice; None for a choice that this row lacks but other rows have.
    names: the file's name for each choice; empty if it has none.
    """

    texts: list[str | None]
    names: list[str]

    def called(self, answers: str) -> list[str]:
        """How an answer of this kind (one of `ANSWERS`) refers to each choice."""
        places = range(len(self.texts))
        if answers == "text":
            return [text or "" for text in self.texts]
        if answers == "letter":
            return [string.ascii_uppercase[place % 26] for place in places]
        if answers == "name":
            return self.names
        return [str(place + (answers == "number from 1")) for place in places]

    def right(self, answer, answers: str) -> int | None:
        """The index of the answer; None if it is not one of the choices."""
        if answers == "text" and not isinstance(answer, str):
            return None
        word = whole(str(answer)) if answers.startswith("number") else str(answer)
        called = self.called(answers)
        word = word.upper() if answers == "letter" else word
        place = called.index(word) if word in called else None
        return None if place is None or self.texts[place] is None else place


# How a file may say which choice is right. The first kind that fits all rows is used.
ANSWERS = ("name", "text", "letter", "number from 0", "number from 1")


def read_choice_table(
    columns: ChoiceColumns, path: Path, labelled: bool, tally: Tally | None = None
) -> list[ChoiceExample]:
    """Read the rows of a table as examples, which may have different numbers of choices.

    Raises:
        InputError: a row has fewer than two choices, its choices have no names although answers are names, or its
            answer is not one of its choices (unless the set is evaluated).
    """
    tally = tally or Tally()
    examples = []
    for where, row in _rows(path):
        found = choices_of(row, columns, where)
        called = found.called(columns.answers)
        if not called:
            raise InputError(f"{where}: its choices have no names, and answers are names here: give each its 'label'")
        there = [place for place, text in enumerate(found.texts) if text is not None]
        label: int | str | None = None
        if labelled:
            answer = _answer(row, columns, where)
            right = found.right(answer, columns.answers)
            tally.labels += 1
            if right is not None:
                label = there.index(right)
            elif tally.evaluated and str(answer).strip():
                label = str(answer)
                tally.unknown.append((where, label))
            else:
                raise _no_choice(answer, columns.answers, found, where)
        texts = [_text(row, name, where) for name in (columns.context, columns.question) if name]
        if columns.context is None and _has_blank(texts[0]):
            context, question = "", texts[0]
        else:  # without a question, the second text is the choice alone
            context, question = texts if len(texts) == 2 else (texts[0], "_")
        examples.append(
            ChoiceExample(
                context,
                question,
                tuple(found.texts[place] or "" for place in there),
                label,
                index_of(row, where),
                cloze=_has_blank(question),
                names=tuple(called[place] for place in there),
            )
        )
    return examples


def _has_blank(question: str) -> bool:
    return bool(BLANK.search(question) and not IN_A_WORD.search(question))


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    return ((place_of(path, number), row) for number, row in rows_of(path))


def _answer(row: dict, columns: ChoiceColumns, where: str):
    if row.get(columns.answer) is None:
        raise InputError(f"{where}: there is no answer in column {columns.answer!r}")
    return row[columns.answer]


def _no_choice(answer, answers: str, found: Choices, where: str) -> InputError:
    there = [name for name, text in zip(found.called(answers), found.texts, strict=False) if text is not None]
    return InputError(
        f"{where}: the answer {quoted(str(answer))} is none of its {counted(len(there), 'choice')}, which are called"
        f" {', '.join(map(quoted, there))} ({answers})"
    )


def _text(row: dict, name: str, where: str) -> str:
    """The text of a column; a list, such as the turns of a dialogue, is joined."""
    if isinstance(row.get(name), list):
        return " ".join(checked_text(text, f"each of {name!r}", where) for text in row[name])
    return text_column(row, (name,), where)


def choices_of(row: dict, columns: ChoiceColumns, where: str) -> Choices:
    """The choices of a row: from a list of texts, with or without names, or from one column each.

    Raises:
        InputError: they have another form, or there are fewer than two.
    """
    names: Sequence = ()
    texts: Any
    if len(columns.choices) > 1:
        # An empty cell is not a choice, but the number 0 is.
        texts = [None if row.get(name) in (None, "") else row[name] for name in columns.choices]
        names = columns.choices
    else:
        name = columns.choices[0]
        texts = row.get(name)
        if isinstance(texts, dict):
            names, texts = texts.get("label") or (), texts.get("text")
        if isinstance(texts, list) and texts and all(isinstance(each, dict) for each in texts):
            names, texts = [each.get("label") for each in texts], [each.get("text") for each in texts]
        if not isinstance(texts, list):
            raise InputError(f"{where}: there is no list of choices in column {name!r}")
    texts = [None if text is None else checked_text(text, "a choice", where) for text in texts]
    if len(texts) - texts.count(None) < 2:
        raise InputError(f"{where}: at least two choices are expected, and it has {len(texts) - texts.count(None)}")
    names = [str(each) for each in names if each is not None]
    return Choices(texts, names if len(names) == len(texts) else [])


def kind_of_answers(columns: ChoiceColumns, paths: Sequence[Path], of_all: bool = True) -> str:
    """Which kind of `ANSWERS` a set has.

    Args:
        of_all: the kind has to fit all rows; otherwise the kind that fits most rows is returned.

    Raises:
        InputError: no kind fits; the message names the first row that the most frequent kind does not fit.
    """
    right: Counter[str] = Counter()
    wrong: dict[str, InputError] = {}
    different: dict[frozenset[str], str] = {}  # two kinds -> where they first mean different choices
    total = 0
    for path in paths:
        for where, row in _rows(path):
            total += 1
            found, answer = choices_of(row, columns, where), _answer(row, columns, where)
            meant = {kind: found.right(answer, kind) for kind in ANSWERS}
            for kind, place in meant.items():
                if place is not None:
                    right[kind] += 1
                else:
                    wrong.setdefault(kind, _no_choice(answer, kind, found, where))
            for kinds in itertools.combinations(ANSWERS, 2):
                if meant[kinds[0]] != meant[kinds[1]]:
                    different.setdefault(frozenset(kinds), where)
    if not total:
        raise InputError(f"{', '.join(map(str, paths))}: the file has no rows")
    best = max(ANSWERS, key=lambda kind: right[kind])
    if right[best] < (total if of_all else 1):
        raise wrong[best]
    for other in ANSWERS:
        if other != best and right[other] == right[best] == total and frozenset((best, other)) in different:
            plain = "letters" if best == "text" else "the texts of the choices"
            log.warning(
                f"{different[frozenset((best, other))]}: the answer is taken for the {best} of a choice; as {other} it"
                f" would be another choice, and both fit all rows; if that is wrong, give the answers as {plain}"
            )
    return best

"""For the user's own data: guess the content of a table's columns by their names, and find the labels in them."""

import itertools
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data.classes import named
from data.conll import read_tagged
from data.examples import INDEX_COLUMNS, SENTENCE_TABLES, label_word, tagged_rows, whole
from data.formats import arrow_features, class_names, has_blank_lines, place_of, quoted, rows_of
from data.task_kinds import Names
from utils import InputError, log

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow")
OUTSIDE = "O"  # the tag of a word outside any entity
DOCUMENT_MARK = "-DOCSTART-"
ARROW = (".parquet", ".arrow")  # files with typed columns
# Column names, in any case. All columns of a group are needed.
PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence")),
    *(("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"), ("query", "passage")),
    *(("claim", "evidence"), ("question", "context"), ("context", "hypothesis")),
)
SINGLE = ("sentence", "text", "review", "content", "comment", "tweet", "utterance", "document")
TEXTS = (*PAIRS, *((name,) for name in SINGLE))
# The first group with a column in the file is used.
LABELS = (
    ("label", "labels"),
    ("gold_label", "class", "target", "category", "sentiment", "intent", "emotion", "rating", "stars", "score"),
)
WORDS = (("tokens", "words"), ("token", "word"))
TAGS = (("ner_tags", "tags"), ("labels", "label", "ner"), ("pos_tags", "pos", "upos"), ("chunk_tags",))
CONTEXTS = (("context", "passage", "article", "story", "paragraph", "dialogue", "premise", "sent1", "ctx"),)
QUESTIONS = (("question", "query", "question_stem", "stem", "prompt", "sent2"),)
CHOICES = ("choices", "endings", "options", "candidates", "answers", "choice")
CHOICE_COLUMN = re.compile(r"(|choice|option|ending|answer|sol|solution)[-_ ]?([a-z]|\d{1,2})")
# What numbers or letters the columns of choices: from 0, from 1, or from a.
KEYS = ([str(number) for number in range(100)], [str(number) for number in range(1, 100)], string.ascii_lowercase)
RIGHT = (
    ("label", "labels"),
    ("answer", "answerkey", "answer_key", "correct", "correct_answer", "correct_option", "gold", "target"),
)
SCORES = (("score", "similarity", "similarity_score"), ("label", "labels"), ("target", "value", "rating", "stars"))
LISTED = 20  # columns or labels listed in a message
MOST_NUMBERS = 20  # classes that are decimal numbers; with more, the task is a regression
# A column with more distinct values than this, and fewer than two rows per value, does not hold classes.
MOST_CLASSES = 100


def columns_of(path: Path) -> list[str]:
    """The names of a table's columns, in order; for JSON, those of the first row.

    Raises:
        InputError: the file cannot be read, or has no rows.
    """
    if path.suffix.lower() in ARROW:
        return list(arrow_features(path))
    _, row = next(rows_of(path), (0, None))
    if row is None:
        raise InputError(f"{path}: the file has no rows")
    return list(row)


def given_columns(flag: str, value: str | None, path: Path, columns: Sequence[str], most: int = 1) -> Names:
    """The columns that a flag names, `most` at most; none if the flag is not given.

    Raises:
        InputError: a column does not exist or is named twice, or there are too many.
    """
    names: Names = () if value is None else (value,)
    if most > 1 and value not in columns:
        names = tuple(name.strip() for name in (value or "").split(",") if name.strip())
    if value is not None and not 1 <= len(names) <= most:
        raise InputError(f"{flag} {value}: name {'one column or two' if most == 2 else 'columns'}, as in a,b")
    if len(set(names)) < len(names):
        raise InputError(f"{flag} {value}: it names a column twice")
    for name in names:
        if name not in columns:
            raise InputError(f"{flag} {value}: {path} has no column {quoted(name)}; it has {_listed(columns)}")
    return names


def tell(path: Path, columns: Mapping[str, Names], given: Mapping[str, object]) -> None:
    """Log which columns are used for what, and for guessed columns, the flags that choose others.

    Args:
        given: the flag of each kind of column, in the same order -> whether it was given.
    """
    said = [
        f"{what} in {' and '.join(map(quoted, names))}" + ("" if given[flag] else f" (guessed; {flag} chooses)")
        for (what, names), flag in zip(columns.items(), given, strict=True)
        if names
    ]
    log.info(f"{path}: {', '.join(said)}")


def _matching(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns with these names in any case, in the order of the names."""
    by_lower = {column.strip().lower(): column for column in reversed(columns)}
    return [by_lower[name] for name in names if name in by_lower]


def guessed(
    path: Path, what: str, columns: Sequence[str], tiers: Sequence[Names], flag: str, needed: bool = True
) -> Names:
    """The column matched by the first group of names that matches any; none if no group does.

    Args:
        needed: if True, several matching columns are an error; otherwise all of them are returned.
    """
    found = next(filter(None, (_matching(columns, tier) for tier in tiers)), [])
    if needed and len(found) > 1:
        raise unclear(path, what, columns, flag, list(map(quoted, found)))
    return tuple(found)


def guessed_texts(path: Path, columns: Sequence[str], label: Names, needed: bool = True) -> Names:
    """The text column, or the two, guessed by name; if no name is known, the only column left.

    Args:
        label: columns that are not texts.
        needed: a label is required; if its column is not known, the only column left might be the label.
    """
    columns = [column for column in columns if column not in label]
    groups = [tuple(_matching(columns, group)) for group in TEXTS]
    found = [group for group, wanted in zip(groups, TEXTS, strict=True) if len(group) == len(wanted)]
    found = [group for group in found if not any({*group} < {*other} for other in found)]
    if len(found) == 1:
        return found[0]
    others = _others(columns, ())
    if not found and len(others) == 1 and (label or not needed):
        return (others[0],)
    names = [" with ".join(map(quoted, group)) for group in found]
    raise unclear(path, "text", [*columns, *label], "--text_columns", names)


def guessed_choices(path: Path, columns: Sequence[str]) -> Names:
    """The column with a list of choices, or the numbered or lettered columns with one choice each."""
    rows: dict[str, dict[str, str]] = {}
    for column in columns:
        if match := CHOICE_COLUMN.fullmatch(column.strip().lower()):
            rows.setdefault(match[1], {})[match[2]] = column
    # Without a gap: a column `n` or `q` beside `a` to `d` is none of the choices.
    complete = [
        tuple(each[key] for key in run)
        for each in rows.values()
        for keys in KEYS
        if len(run := [*itertools.takewhile(each.__contains__, keys)]) > 1
    ]
    complete = [run for run in complete if not any({*run} < {*other} for other in complete)]
    lists = [(column,) for column in _matching(columns, CHOICES)]
    found = [*lists, *complete]
    if len(found) > 1:
        names = [", ".join(map(quoted, group)) for group in found]
        raise unclear(path, "list of choices", columns, "--choice_columns", names)
    return found[0] if found else ()


def only_other(columns: Sequence[str], texts: Names) -> Names:
    """The column that is neither text nor row name, if there is exactly one."""
    others = _others(columns, texts)
    return (others[0],) if len(others) == 1 else ()


def _others(columns: Sequence[str], but: Sequence[str]) -> list[str]:
    unnamed = ("", "unnamed: 0", "__index_level_0__")  # the row numbers that pandas writes
    known = {name.lower() for name in INDEX_COLUMNS} | {*unnamed}
    return [column for column in columns if column not in but and column.strip().lower() not in known]


def unclear(path: Path, what: str, columns: Sequence[str], flag: str, found: Sequence[str] = ()) -> InputError:
    which = f" ({' or '.join(found)}?)" if found else ""
    return InputError(
        f"{path}: which column is the {what} is not clear{which}: give {flag}; the columns are {_listed(columns)}"
    )


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(map(quoted, columns[:LISTED])) + ", ..." * (len(columns) > LISTED)


def script_of(train: Path) -> str:
    """Which script a training file is for, by its suffix and column names.

    Raises:
        InputError: the file cannot be read, or its columns can be read in several ways.
    """
    suffix = train.suffix.lower()
    if suffix not in SUFFIXES:
        return "run_tok_clas"
    columns = columns_of(train)
    if suffix in SENTENCE_TABLES and all(any(_matching(columns, tier) for tier in tiers) for tiers in (WORDS, TAGS)):
        return "run_tok_clas"
    if guessed_choices(train, columns):
        return "run_multi_cho"
    # Files with one word and its tag per line are tab-separated too, but have no header.
    known = any(_matching(columns, group) for group in (*TEXTS, *LABELS))
    return "run_tok_clas" if suffix == ".tsv" and not known and has_blank_lines(train) else "run_sent_clas"


def count_rows(train: Path, script: str) -> int:
    """The number of rows of a training file; for token tasks, of sentences.

    Raises:
        InputError: the file cannot be read.
    """
    words = script == "run_tok_clas" and train.suffix.lower() not in SENTENCE_TABLES
    return sum(1 for _ in (read_tagged(train, False, DOCUMENT_MARK) if words else rows_of(train)))


def find_labels(paths: Sequence[Path], column: str) -> Names:
    """The labels in a column of the files: in numeric order if all are numbers, else sorted.

    Raises:
        InputError: a row has no label, or the values are not classes.
    """
    times: Counter[str] = Counter()
    for path in paths:
        for number, row in rows_of(path):
            where = place_of(path, number)
            if column not in row:
                raise InputError(f"{where}: there is no column {quoted(column)}")
            word = label_word(row[column], column, where)
            if not word.strip():
                raise InputError(f"{where}: the label in column {quoted(column)} is empty")
            times[word] += 1
    numbers = {word: _number(word) for word in times}
    given = f"{', '.join(map(str, paths))}: column {quoted(column)}"
    if None not in numbers.values():
        numbers = {whole(word): number for word, number in numbers.items()}
        whole_numbers = all(number is not None and number.is_integer() for number in numbers.values())
        if not whole_numbers and len(numbers) > MOST_NUMBERS:
            raise InputError(
                f"{given} has {len(numbers)} different numbers, which are no classes: add --regression to predict"
                " numbers, or give another --label_column"
            )
    if len(numbers) > max(MOST_CLASSES, times.total() // 2):
        raise InputError(
            f"{given} has {len(numbers)} different values in {times.total()} rows, which are no classes: give the"
            " label's column with --label_column"
        )
    if len(numbers) < 2:
        alike = f"the label {quoted(next(iter(numbers)))} in every row" if numbers else "no rows"
        raise InputError(f"{given} has {alike}: at least two labels are needed")
    labels = in_order(numbers)
    if not named(labels):
        raise InputError(
            f"{given} has the labels {', '.join(labels)}, which stand for classes without a name: rename them"
        )
    _tell_alike(given, labels)
    return labels


def find_tags(paths: Sequence[Path], columns: tuple[str, str] | None) -> Names:
    """The tags of files: in the order of a numbered class, else O first, then the others in numeric order or sorted.

    Args:
        columns: the columns of words and of tags, for tables.

    Raises:
        InputError: a file cannot be read, or has fewer than two tags.
    """
    found: dict[str, None] = {}
    declared = False
    for path in paths:
        if columns and path.suffix.lower() in SENTENCE_TABLES:
            if path.suffix.lower() in ARROW and (names := class_names(arrow_features(path).get(columns[1]))):
                found |= dict.fromkeys(names)
                declared = True
            sentences = (tags for _, tags, _, _ in tagged_rows(path, *columns, labelled=True))
        else:
            sentences = (tags for _, tags, _ in read_tagged(path, True, DOCUMENT_MARK))
        found |= dict.fromkeys(tag for tags in sentences for tag in tags)
    if len(found) < 2:
        alike = f"the tag of every word is {quoted(next(iter(found)))}" if found else "no words"
        raise InputError(f"{', '.join(map(str, paths))}: {alike}; at least two tags are needed")
    _tell_alike(", ".join(map(str, paths)), found)
    return tuple(sorted(found if declared else in_order(found), key=lambda tag: tag != OUTSIDE))


def _tell_alike(given: str, labels: Iterable[str]) -> None:
    """Warn of labels that are one word in two spellings, perhaps by mistake."""
    spellings: dict[str, list[str]] = {}
    for label in labels:
        spellings.setdefault(label.casefold(), []).append(label)
    for alike in spellings.values():
        if len(alike) > 1:
            log.warning(
                f"{given}: {', '.join(map(quoted, alike))} differ only in case: they count as different classes"
            )


def in_order(words: Iterable[str]) -> Names:
    """The words in numeric order if all are numbers, else sorted."""
    numbers = {word: _number(word) for word in words}
    return tuple(sorted(numbers, key=lambda word: (numbers[word], word) if None not in numbers.values() else word))


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:LISTED]) + ", ..." * (len(labels) > LISTED)

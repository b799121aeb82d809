"""Files with a word and its tag a line: the words and tags of each sentence, in BIO where spans are marked."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.formats import quoted, word_lines
from utils import InputError, counted, log

# CoNLL-X and CoNLL-U have ten columns, of which the first numbers the words of a sentence. Two kinds of rows are not
# words: a range (2-3), which repeats a contraction as written, and an empty node (3.1), a word left unsaid.
TREEBANK_WIDTH = 10
TREEBANK_ID = re.compile(r"\d+(?:([-.])\d+)?")
TREEBANK_WORD, TREEBANK_TAGS = 1, {3: "UPOS", 4: "XPOS"}
NO_TAG = "_"  # in a treebank


def read_tagged(
    path: Path, labelled: bool, document_mark: str | None = None
) -> Iterator[tuple[list[str], list[str], list[int]]]:
    """(words, tags, line of each word) of each sentence: the first and the last column of a row.

    In the ten columns of a treebank they are the second and the fourth, as the release reads PTB; where no word has a
    tag there (`_`), the fifth. Comments, ranges and empty nodes of CoNLL-U are skipped, and counted in the log.

    Args:
        labelled: a tag is required in each row; without it, the tags are empty.
        document_mark: as of `TokenTask`.

    Raises:
        InputError: a row has no word, no tag, or another number of columns than the first.
    """
    rows = list(word_lines(path, document_mark))
    # What begins with # is a comment in a treebank alone: elsewhere it is a word.
    first = next((columns for _, columns in rows if columns and not columns[0].startswith("#")), [])
    treebank = len(first) == TREEBANK_WIDTH and bool(TREEBANK_ID.fullmatch(first[0]))
    word, tag = (TREEBANK_WORD, _tag_column(path, rows) if labelled else 0) if treebank else (0, -1)
    words: list[str] = []
    tags: list[str] = []
    places: list[int] = []
    width: int | None = None
    left_out: Counter[str] = Counter()
    for line, columns in rows:
        if not columns:
            if words:
                yield words, tags, places
            words, tags, places = [], [], []
            continue
        if treebank and columns[0].startswith("#"):
            left_out["comment lines"] += 1
            continue
        width = width or len(columns)
        if labelled and len(columns) == 1:
            raise InputError(f"{path}, line {line}: the row has no tag; a word and its tag are expected")
        if len(columns) != width:
            raise InputError(f"{path}, line {line}: {counted(len(columns), 'column')} where {width} are expected")
        if treebank and (other := _no_word(columns)):
            left_out[other] += 1
            continue
        if not columns[word]:
            raise InputError(f"{path}, line {line}: the row has no word")
        if labelled and treebank and columns[tag] in ("", NO_TAG):
            named = f"column {tag + 1} ({TREEBANK_TAGS[tag]})"
            raise InputError(f"{path}, line {line}: the row has no tag: {named} is {quoted(columns[tag])}")
        words.append(columns[word])
        places.append(line)
        if labelled:
            tags.append(columns[tag])
    if words:
        yield words, tags, places
    if left_out:
        counts = ", ".join(f"{number} {name}" for name, number in sorted(left_out.items()))
        log.info(f"{path}: CoNLL-U, skipped: {counts}")


def _no_word(columns: list[str]) -> str | None:
    """What a row of a treebank is where it is no word."""
    number = TREEBANK_ID.fullmatch(columns[0])
    return {"-": "multi-word ranges", ".": "empty nodes"}.get(number[1]) if number else None


def _tag_column(path: Path, rows: list[tuple[int, list[str]]]) -> int:
    """Where the tags of a treebank stand: in the first column that has any."""
    words = [row for _, row in rows if len(row) == TREEBANK_WIDTH and not row[0].startswith("#") and not _no_word(row)]
    first, *others = TREEBANK_TAGS
    if words and all(row[first] == NO_TAG for row in words):
        for other in others:
            if any(row[other] != NO_TAG for row in words):
                names = [f"column {column + 1} ({TREEBANK_TAGS[column]})" for column in (first, other)]
                log.info(f"{path}: {names[0]} is '_' throughout: the tags are read from {names[1]}")
                return other
    return first


def as_bio(tags: list[str]) -> list[str]:
    """Tags of a sentence in IOB1 or BIO -> BIO: an I- that does not continue a span of its type opens one."""
    bio: list[str] = []
    for tag in tags:
        kind, before = tag[2:], bio[-1] if bio else "O"
        bio.append(f"B-{kind}" if tag.startswith("I-") and before not in (f"B-{kind}", tag) else tag)
    return bio

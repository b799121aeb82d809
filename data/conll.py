"""Read files with one word and its tag per line: the words and tags of each sentence, spans as BIO."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.formats import quoted, word_lines
from utils import InputError, counted, log

# CoNLL-X and CoNLL-U have ten columns; the first numbers the words of a sentence. Two kinds of rows are not words: a
# range (2-3), which repeats a contraction as written, and an empty node (3.1), an elided word.
TREEBANK_WIDTH = 10
TREEBANK_ID = re.compile(r"\d+(?:([-.])\d+)?")
TREEBANK_WORD, TREEBANK_TAGS = 1, {3: "UPOS", 4: "XPOS"}
EMPTY = "_"  # an empty field in a treebank
SPAN_TAG = re.compile(r"[BILUES]-.+")


def read_tagged(
    path: Path, labelled: bool, document_mark: str | None = None
) -> Iterator[tuple[list[str], list[str], list[int]]]:
    """Yield (words, tags, line of each word) for each sentence. Words are the first column, tags the last.

    In a treebank with ten columns, words are the second column and tags the fourth, as the release reads PTB; if no
    word has a tag there (`_`), the fifth. Comments, and the ranges and empty nodes of CoNLL-U, are skipped, and counted
    in the log.

    Args:
        labelled: whether each row must have a tag; if False, the tags are empty.
        document_mark: as in `TokenTask`.

    Raises:
        InputError: a row has no word, no tag, or a different number of columns than the first row.
    """
    rows = list(word_lines(path, document_mark))
    # Only in a treebank does # always begin a comment: elsewhere it may begin a word.
    first = next((columns for _, columns in rows if columns and not columns[0].startswith("#")), [])
    treebank = len(first) == TREEBANK_WIDTH and bool(TREEBANK_ID.fullmatch(first[0]))
    comments = set() if treebank else _comments(rows)
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
        if line in comments or (treebank and columns[0].startswith("#")):
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
        if labelled and treebank and columns[tag] in ("", EMPTY):
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
        log.info(f"{path}: {'CoNLL-U, ' if treebank else ''}skipped: {counts}")


def _comments(rows: list[tuple[int, list[str]]]) -> set[int]:
    """The lines with a comment, in files that are no treebank: at the start of a sentence, "# " and more.

    The word # may begin a sentence too. Its row has as many columns as others, and a tag that others have or that looks
    like one.
    """
    begun, found, words = False, [], []
    for line, columns in rows:
        if not columns:
            begun = False
        elif not begun and " ".join(columns).startswith("# "):
            found.append((line, columns))
        else:
            begun = True
            words.append(columns)
    widths, tags = {len(columns) for columns in words}, {columns[-1] for columns in words}
    return {
        line
        for line, columns in found
        if words and (len(columns) not in widths or not (columns[-1] in tags or SPAN_TAG.fullmatch(columns[-1])))
    }


def _no_word(columns: list[str]) -> str | None:
    """The kind of a treebank row that is not a word; None for a word."""
    number = TREEBANK_ID.fullmatch(columns[0])
    return {"-": "multi-word ranges", ".": "empty nodes"}.get(number[1]) if number else None


def _tag_column(path: Path, rows: list[tuple[int, list[str]]]) -> int:
    """The column of a treebank's tags: the first that has any."""
    words = [row for _, row in rows if len(row) == TREEBANK_WIDTH and not row[0].startswith("#") and not _no_word(row)]
    first, *others = TREEBANK_TAGS
    if words and all(row[first] == EMPTY for row in words):
        for other in others:
            if any(row[other] != EMPTY for row in words):
                names = [f"column {column + 1} ({TREEBANK_TAGS[column]})" for column in (first, other)]
                log.info(f"{path}: {names[0]} is '_' throughout: the tags are read from {names[1]}")
                return other
    return first


def as_bio(tags: list[str]) -> list[str]:
    """Convert a sentence's tags from IOB1 or BIO to BIO: an I- that continues no span of its type becomes B-."""
    bio: list[str] = []
    for tag in tags:
        kind, before = tag[2:], bio[-1] if bio else "O"
        bio.append(f"B-{kind}" if tag.startswith("I-") and before not in (f"B-{kind}", tag) else tag)
    return bio

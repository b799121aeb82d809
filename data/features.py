"""Examples -> the encoder's input: token ids, with the length of each row for sorting and grouping."""

import bisect
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset
from transformers import BatchEncoding, PreTrainedTokenizerBase

from data.examples import ChoiceExample, Example, WordsExample
from data.task_kinds import IGNORED_LABEL
from utils import InputError

# A blank in DREAM has up to 24 underscores. The release replaces each of them by the choice.
BLANKS = {"corrected": "_+", "release": "_"}


class Features(Dataset):
    """Tokenised examples: `features[i]` is a row for a collator to pad, `lengths[i]` its number of tokens.

    examples: the examples that the rows were made from.
    lengths: number of tokens in each row; if a row has several sequences, of the longest.
    choices: for multiple choice, the number of sequences in each row.
    report: how much was truncated at the length limit, for the log and the results.
    first_tokens: for a token task, the position of each word's first token in its row; None for a word without one.
    """

    CHUNK = 10_000  # examples tokenised at once, and documents packed together: no row has text of two blocks

    def __init__(
        self,
        columns: dict[str, list],
        labels: Sequence | None = None,
        *,
        examples: Sequence = (),
        lengths: list[int] | None = None,
        choices: list[int] | None = None,
        report: Mapping[str, float] | None = None,
        first_tokens: list[list[int | None]] | None = None,
    ):
        self.examples = examples
        self.columns: dict[str, Any] = {**columns, "labels": labels} if labels is not None else columns
        self.report = report or {}
        self.lengths = lengths or [len(ids) for ids in columns["input_ids"]]
        self.choices = choices
        self.first_tokens = first_tokens

    def begin_epoch(self, epoch: int) -> None:
        """Announce the epoch that begins, for rows that differ between epochs.

        It is not called `set_epoch`, because Accelerate's data loaders call that with their own count.
        """

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict:
        return {name: column[index] for name, column in self.columns.items()}


def sentence_features(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> Features:
    """Tokenise sentences or pairs, truncated to `max_seq_length` tokens; the longer of a pair is cut first.

    Raises:
        InputError: the length does not fit the tokenizer or leaves no room for text.
    """
    texts = zip(*(example.texts for example in examples), strict=True)
    encoding, cut = _encode(tokenizer, [list(column) for column in texts], max_seq_length)
    return Features(dict(encoding), _labels(examples), examples=examples, report=_report(examples, cut))


def choice_features(
    examples: Sequence[ChoiceExample],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    truncation: str = "longest_first",
    protocol: str = "corrected",
) -> Features:
    """Tokenise one pair of context and question for each choice, truncated to `max_seq_length` tokens.

    Args:
        truncation: what to truncate: the longer of the two texts ("longest_first"), or only the context ("only_first").
        protocol: decides what is a blank in a cloze question, see `BLANKS`.

    Raises:
        InputError: the length does not fit the tokenizer or leaves no room for the texts.
    """
    choices = [len(example.choices) for example in examples]
    ends = list(itertools.accumulate(choices))
    contexts = [example.context for example in examples for _ in example.choices]
    answers = [
        answered(row.question, choice, BLANKS[protocol] if row.cloze else None)
        for row in examples
        for choice in row.choices
    ]
    encoding, cut = _encode(tokenizer, [contexts, answers], max_seq_length, truncation)
    columns = {
        name: [column[end - count : end] for end, count in zip(ends, choices, strict=True)]
        for name, column in encoding.items()
    }
    return Features(
        columns,
        _labels(examples),
        examples=examples,
        lengths=[max(map(len, ids)) for ids in columns["input_ids"]],
        choices=choices,
        report=_report(examples, {bisect.bisect(ends, row) for row in cut}),
    )


def answered(question: str, choice: str, blank: str | None) -> str:
    """The second text of a pair: the question with the choice in its blank (a pattern) or, without one, appended."""
    return re.sub(blank, lambda _: choice, question) if blank and "_" in question else f"{question} {choice}"


def word_features(
    examples: Sequence[WordsExample], tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> Features:
    """Tokenise sentences given as words, truncated to `max_seq_length` tokens; a word's first token has its label.

    A word has no token if it is beyond the limit, or if the tokenizer drops it (for example a lone accent).

    Raises:
        InputError: the length does not fit the tokenizer, or the tokenizer does not say which word a token is from.
    """
    if not tokenizer.is_fast:
        raise InputError(
            "--use_slow_tokenizer: a token task needs a fast tokenizer, which knows the word that each token is part of"
        )
    before = " " * _takes_space(tokenizer)
    texts = [[f"{before}{word}" for word in row.words] for row in examples]
    encoding, cut = _encode(tokenizer, [texts], max_seq_length, is_split_into_words=True)
    first_tokens: list[list[int | None]] = []
    beyond_limit = 0
    for row, example in enumerate(examples):
        places: dict[int, int] = {}
        for place, word in enumerate(encoding.word_ids(row)):
            if word is not None:
                places.setdefault(word, place)
        first_tokens.append([places.get(word) for word in range(len(example.words))])
        if row in cut:
            beyond_limit += len(example.words) - 1 - max(places, default=-1)
    unseen = sum(firsts.count(None) for firsts in first_tokens)
    report = _report(
        examples,
        cut,
        words=sum(len(example.words) for example in examples),
        words_beyond_limit=beyond_limit,
        words_without_tokens=unseen - beyond_limit,
    )

    labels: list[list] | None = None
    if _labels(examples):
        labels = [[IGNORED_LABEL] * len(ids) for ids in encoding["input_ids"]]
        for of_tokens, example, firsts in zip(labels, examples, first_tokens, strict=True):
            assert example.labels is not None  # `_labels` has checked this
            for label, first in zip(example.labels, firsts, strict=True):
                if first is not None:
                    of_tokens[first] = class_index(label)
    return Features(dict(encoding), labels, examples=examples, report=report, first_tokens=first_tokens)


def _takes_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a word needs a space before it, lest it is read as the continuation of the word before.

    So it is with byte-level tokenizers, unless their class obeys `add_prefix_space` (RoBERTa's does, ModernBERT's and
    EuroBERT's do not).
    """
    plain = tokenizer("a b", add_special_tokens=False)["input_ids"]
    bare, spaced = (
        tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
        for words in (["a", "b"], ["a", " b"])
    )
    return bare != plain == spaced


def _labels(examples: Sequence) -> list | None:
    labels = [getattr(example, "labels" if isinstance(example, WordsExample) else "label") for example in examples]
    return None if None in labels else [label if isinstance(label, list) else class_index(label) for label in labels]


def class_index(label: int | float | str) -> int | float:
    """The label as a number; a class that the task lacks, given by its name, becomes the ignored label."""
    return IGNORED_LABEL if isinstance(label, str) else label


def _report(examples: Sequence, cut: set[int], **figures: int) -> dict[str, float]:
    """The report on the rows, of which those in `cut` were truncated, together with the readers' figures."""
    return {"truncated_share": len(cut) / len(examples), **figures, **getattr(examples, "report", {})}


def check_length(tokenizer: PreTrainedTokenizerBase, max_seq_length: int, pair: bool = False) -> int:
    """Check the length limit, and return the number of special tokens in a row.

    Raises:
        InputError: the length does not fit the tokenizer or leaves no room for text.
    """
    limit, special = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add(pair=pair)
    if not special < max_seq_length <= limit:
        raise InputError(f"--max_seq_length {max_seq_length}: this encoder takes {special + 1} to {limit} tokens")
    return special


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    columns: list[list],
    max_seq_length: int,
    truncation: str = "longest_first",
    **options,
) -> tuple[BatchEncoding, set[int]]:
    """Tokenise one text or one pair per row; return the encoding and the rows that were truncated."""
    check_length(tokenizer, max_seq_length, pair=len(columns) == 2)
    try:
        encoding = tokenizer(*columns, truncation=truncation, max_length=max_seq_length, padding=False, **options)
    except Exception:  # the library raises no narrower class
        if truncation != "only_first":
            raise
        raise InputError(
            f"--truncation only_first: with --max_seq_length {max_seq_length} a question with its choice leaves no room"
            " for the context: raise the length, or use longest_first"
        ) from None
    full = [row for row, ids in enumerate(encoding["input_ids"]) if len(ids) == max_seq_length]
    whole = tokenizer(*([column[row] for row in full] for column in columns), **options) if full else {"input_ids": []}
    return encoding, {row for row, ids in zip(full, whole["input_ids"], strict=True) if len(ids) > max_seq_length}

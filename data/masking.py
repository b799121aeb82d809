"""Documents -> packed rows of tokens -> rows with masked words (BERT's objective).

Which words of a row are masked depends only on the seed, the epoch and the row's number, not on the process or worker.
A resumed run therefore masks the same words as an uninterrupted one, and every model is evaluated on the same words.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from data.features import Features, check_length
from data.task_kinds import IGNORED_LABEL
from utils import InputError

MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens that become the mask token, or a random token
TRAINING, EVALUATION = 1, 2  # makes the random streams different


def packed_features(
    documents: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    packing: bool = True,
    whole_words: bool = False,
) -> Features:
    """Pack documents, joined by separators, into rows of up to `max_seq_length` tokens.

    A row may end in the middle of a document, and may have several documents, which then attend to each other
    (RoBERTa's "full-sentences").

    Args:
        packing: if False, no row has text of two documents.
        whole_words: also return, as `starts`, which tokens begin a word.

    Raises:
        InputError: the length does not fit the tokenizer, or the tokenizer does not say which word a token is from.
    """
    if whole_words and not tokenizer.is_fast:
        raise InputError("--whole_word_mask: a fast tokenizer is needed, which says whose token is whose")
    room = max_seq_length - check_length(tokenizer, max_seq_length)
    before, after = _around(tokenizer)
    separator = after[:1] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
    columns: dict[str, list] = {"input_ids": [], **({"starts": []} if whole_words else {})}
    tokens = 0
    for first in range(0, len(documents), Features.CHUNK):
        texts = list(documents[first : first + Features.CHUNK])
        encoding = tokenizer(
            texts, add_special_tokens=False, truncation=False, padding=False, return_attention_mask=False, verbose=False
        )
        pieces = [
            (ids, _starts(encoding.word_ids(row)) if whole_words else [])
            for row, ids in enumerate(encoding["input_ids"])
        ]
        tokens += sum(len(ids) for ids, _ in pieces)
        for ids, starts in _cut([_joined(pieces, separator)] if packing else pieces, room, separator):
            columns["input_ids"].append([*before, *ids, *after])
            if whole_words:
                columns["starts"].append([True] * len(before) + starts + [True] * len(after))
    return Features(columns, report={"documents": len(documents), "tokens": tokens})


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    place = next(place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    return whole[:place], whole[place + len(bare) :]


def _starts(words: list[int | None]) -> list[bool]:
    return [place == 0 or word is None or word != words[place - 1] for place, word in enumerate(words)]


def _joined(pieces: list[tuple[list, list]], separator: list[int]) -> tuple[list, list]:
    """Join documents with separators between them."""
    ids: list[int] = []
    starts: list[bool] = []
    for more, more_starts in pieces:
        if ids and more:
            ids += separator
            starts += [True] * len(separator)
        ids += more
        starts += more_starts
    return ids, starts


def _cut(pieces: list[tuple[list, list]], room: int, separator: list[int]):
    """Split tokens into parts of at most `room`, none of which begins or ends with a separator."""
    for ids, starts in pieces:
        place = 0
        while place < len(ids):
            if ids[place : place + 1] == separator:
                place += 1
                continue
            end = place + room
            last = end - 1 if ids[end - 1 : end] == separator else end
            yield ids[place:last], starts[place:last]
            place = end


@dataclass
class Masking:
    """BERT's rule for which tokens are masked, and how.

    The given `share` of a row's tokens is chosen, rounded, but at least one, and never a special token. Of the chosen
    tokens, 80 % become the mask token, 10 % a random token, and 10 % stay unchanged. With `whole_words`, whole words
    are chosen until they have that number of tokens; a word that would exceed it is skipped, so a row may have no
    masked word.
    """

    mask_token: int
    special: np.ndarray  # ids that are never masked or inserted
    vocabulary: np.ndarray  # ids that are inserted at random
    share: float
    whole_words: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, share: float, whole_words: bool) -> "Masking":
        """Build the rule for a tokenizer; raise `InputError` if it has no mask token."""
        if tokenizer.mask_token_id is None:
            raise InputError("--load_model_path: its tokenizer has no mask token, which this training needs")
        special = np.unique(tokenizer.all_special_ids)
        vocabulary = np.setdiff1d(np.fromiter(tokenizer.get_vocab().values(), dtype=np.int64), special)
        return cls(tokenizer.mask_token_id, special, vocabulary, share, whole_words)

    def places(self, ids: np.ndarray, starts: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
        """The positions chosen in a row, in order."""
        free = np.flatnonzero(~np.isin(ids, self.special))
        count = min(len(free), max(1, round(self.share * len(free))))
        if not self.whole_words or starts is None:
            return np.sort(random.choice(free, count, replace=False))
        # A special token ends a word, even if no word start follows it.
        begins = starts[free] | (np.diff(free, prepend=-2) > 1)
        words = np.split(free, np.flatnonzero(begins)[1:]) if len(free) else []
        chosen: list[int] = []
        for number in random.permutation(len(words)):
            if len(chosen) + len(words[number]) <= count:
                chosen += words[number].tolist()
        return np.sort(np.array(chosen, dtype=np.int64))

    def __call__(self, ids: list[int], starts: list[bool] | None, stream: tuple[int, ...]) -> dict[str, list[int]]:
        """A row for the collator: the masked tokens, the positions chosen (`words`) and the original tokens there.

        Args:
            stream: the numbers that seed the random choice.
        """
        random = np.random.default_rng(stream)
        given = np.array(ids)
        places = self.places(given, None if starts is None else np.array(starts), random)
        inputs, draws = given.copy(), random.random(len(places))
        inputs[places[draws < MASKED]] = self.mask_token
        replaced = places[(draws >= MASKED) & (draws < MASKED + REPLACED)]
        inputs[replaced] = random.choice(self.vocabulary, len(replaced))
        return {"input_ids": inputs.tolist(), "words": places.tolist(), "labels": given[places].tolist()}


class MaskedRows(Features):
    """Packed rows, masked differently in each epoch; evaluated rows are always masked alike, whatever the seed."""

    def __init__(self, rows: Features, masking: Masking, seed: int | None = None):
        """`seed`: for a training set; None for a set that is evaluated."""
        super().__init__(rows.columns, lengths=rows.lengths, report=rows.report)
        self.rows, self.masking, self.seed, self.epoch = rows, masking, seed, 0

    def begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict:
        return self._masked(index, self.rows[index])

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """All rows of a batch at once; data loaders call this."""
        fetch = getattr(self.rows, "__getitems__", None)
        rows = fetch(indices) if fetch else [self.rows[index] for index in indices]
        return [self._masked(index, row) for index, row in zip(indices, rows, strict=True)]

    def _masked(self, index: int, row: dict) -> dict:
        stream = (EVALUATION, index) if self.seed is None else (TRAINING, self.seed, self.epoch, index)
        return self.masking(row["input_ids"], row.get("starts"), stream)

    def identity(self) -> str:
        """A checksum of all tokens."""
        found = hashlib.sha256()
        for first in range(0, len(self), Features.CHUNK):
            rows = self.columns["input_ids"][first : first + Features.CHUNK]
            found.update(np.concatenate([np.array(ids, dtype=np.int32) for ids in rows]).tobytes())
        return found.hexdigest()


class MaskedCollator:
    """Rows of `MaskedRows` -> input_ids and attention_mask (B, L), words and labels (B, M)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, **padding):
        self.pad = DataCollatorWithPadding(tokenizer, **padding)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = self.pad(
            [{"input_ids": row["input_ids"], "attention_mask": [1] * len(row["input_ids"])} for row in rows]
        )
        width = max(1, *(len(row["words"]) for row in rows))
        for name, filled in (("words", 0), ("labels", IGNORED_LABEL)):
            batch[name] = torch.tensor([row[name] + [filled] * (width - len(row[name])) for row in rows])
        return dict(batch)

"""Examples -> what the encoder reads: token ids, with the length of each row known for sorting and grouping."""

from collections.abc import Sequence

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from data.readers import Example
from utils import InputError


class Features(Dataset):
    """Tokenised rows: `features[i]` is what a collator pads, `lengths[i]` its number of tokens."""

    def __init__(self, columns: dict[str, list], labels: Sequence | None = None):
        self.columns = {**columns, "labels": labels} if labels is not None else columns
        self.lengths = [len(ids) for ids in columns["input_ids"]]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict:
        return {name: column[index] for name, column in self.columns.items()}


def sentence_features(examples: list[Example], tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> Features:
    """Sentences or sentence pairs, cut to `max_seq_length` tokens from the longer of the two first.

    Raises:
        InputError: the length does not fit the tokenizer or leaves no room for text.
    """
    limit = tokenizer.model_max_length
    special = tokenizer.num_special_tokens_to_add(pair=len(examples[0].texts) == 2)
    if not special < max_seq_length <= limit:
        raise InputError(f"--max_seq_length {max_seq_length}: this encoder takes {special + 1} to {limit} tokens")
    columns = tokenizer(
        *map(list, zip(*(example.texts for example in examples), strict=True)),
        truncation="longest_first",
        max_length=max_seq_length,
        padding=False,
    )
    labels = [example.label for example in examples]
    return Features(dict(columns), None if None in labels else labels)

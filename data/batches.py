"""Rows -> batches: which rows share an optimizer step, and how a batch is padded."""

import argparse
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import DataCollatorForMultipleChoice

from data.task_kinds import IGNORED_LABEL


class StepSampler(Sampler[list[int]]):
    """The rows of each optimizer step, in a new order every epoch that depends only on seed and epoch.

    With `group_by_length`, rows of similar length share a step: the shuffled rows are sorted within pools of `POOL`
    steps and cut into steps, and the steps are shuffled again, so that no length comes first.

    With several `processes`, each gets the rows for its `place`, also of similar length. It gets none if a last step
    has fewer rows than there are processes.
    """

    POOL = 50

    def __init__(
        self,
        lengths: list[int],
        batch_size: int,
        seed: int,
        group_by_length: bool,
        place: int = 0,
        processes: int = 1,
    ):
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.group_by_length = group_by_length
        self.place = place
        self.processes = processes
        self.epoch = 0
        self.skip = 0  # steps of this epoch that are already done

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        yield from (step[self.place :: self.processes] for step in self.steps()[self.skip :])

    def steps(self) -> list[list[int]]:
        """The rows of each step of this epoch, over all processes."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths)).tolist()
        if self.group_by_length:
            order = [row for pool in _chunks(order, self.batch_size * self.POOL) for row in self._by_length(pool)]
        steps = _chunks(order, self.batch_size)
        if self.group_by_length:
            random.shuffle(steps)
        return steps

    def _by_length(self, rows: list[int]) -> list[int]:
        return sorted(rows, key=self.lengths.__getitem__)


def collate_parts(collate: Callable, parts: int, rows: list[dict]) -> list[dict[str, torch.Tensor]]:
    """Split the rows of an optimizer step into up to `parts` padded batches of similar size.

    Rows with different numbers of choices go into different batches, so that no choice has to be invented. Each part is
    weighted by its share of the step, so together they equal the whole step.
    """
    parts_of_step = _chunks(rows, math.ceil(len(rows) / parts) or 1)
    return [collate(alike) for part in parts_of_step for alike in by_choices(part)]


def by_choices(rows: list[dict]) -> list[list[dict]]:
    """Group the rows by their number of choices; rows with a single sequence form one group."""
    groups: dict[int, list[dict]] = {}
    for row in rows:
        ids = row["input_ids"]
        groups.setdefault(len(ids) if ids and isinstance(ids[0], list) else 0, []).append(row)
    return list(groups.values())


def evaluation_batches(lengths: list[int], choices: list[int] | None, order: list[int], size: int) -> list[list[int]]:
    """Batches of at most `size` rows, all with the same number of choices.

    The longest rows come first: each batch has rows of similar length, and a lack of memory shows at once.

    Args:
        lengths, choices: of all rows, as in `Features`.
        order: the rows of this process, in any order.
    """

    def of(row: int) -> int:
        return choices[row] if choices else 0

    groups = itertools.groupby(sorted(order, key=lambda row: (-of(row), -lengths[row])), of)
    return [batch for _, rows in groups for batch in _chunks(list(rows), size)]


def without_labels(collate: Callable, rows: list[dict]) -> dict[str, torch.Tensor]:
    """The padded batch without labels, for rows whose labels are not the model's classes: there is no loss."""
    return collate([{name: value for name, value in row.items() if name != "labels"} for row in rows])


def padding(args: argparse.Namespace) -> dict:
    """The padding arguments of a transformers collator: to the longest row of a batch, or to `--max_seq_length`."""
    return {"padding": "max_length" if args.pad_to_max_length else "longest", "max_length": args.max_seq_length}


class ChoiceCollator(DataCollatorForMultipleChoice):
    """The transformers collator, which here also accepts test sets, which have no labels."""

    def torch_call(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Rows -> tensors (B, choices, L), and labels (B,) if there are any."""
        batch = super().torch_call([{"labels": IGNORED_LABEL, **example} for example in examples])
        return batch if "labels" in examples[0] else {name: value for name, value in batch.items() if name != "labels"}


def _chunks(rows: list, size: int) -> list[list]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]

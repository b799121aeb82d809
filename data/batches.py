"""Rows -> batches: which rows share an optimizer step, and how a batch is padded."""

import argparse
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import DataCollatorForMultipleChoice

from data.metrics import IGNORED_LABEL


class StepSampler(Sampler[list[int]]):
    """The rows of each optimizer step: every epoch a new order, which follows from seed and epoch alone.

    With `group_by_length`, rows of like length share a step: the shuffled rows are sorted within pools of `POOL` steps,
    cut into steps, and the steps are shuffled again, so that no length comes first.

    Of `processes` that share each step, every one gets the rows of its `place`, of like lengths too; none, where a last
    step has fewer rows than there are processes.
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
        self.skip = 0  # steps of this epoch that have been taken already

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
    """The rows of an optimizer step as up to `parts` padded batches of like size.

    Rows with different numbers of choices make batches of their own: no choice has to be made up, and as parts weigh
    what they hold of the step, they add up to it.
    """
    parts_of_step = _chunks(rows, math.ceil(len(rows) / parts) or 1)
    return [collate(alike) for part in parts_of_step for alike in by_choices(part)]


def by_choices(rows: list[dict]) -> list[list[dict]]:
    """The rows by their numbers of choices; together, where each is a single sequence."""
    groups: dict[int, list[dict]] = {}
    for row in rows:
        ids = row["input_ids"]
        groups.setdefault(len(ids) if ids and isinstance(ids[0], list) else 0, []).append(row)
    return list(groups.values())


def evaluation_batches(lengths: list[int], choices: list[int] | None, order: list[int], size: int) -> list[list[int]]:
    """Rows in batches of at most `size`, each of one number of choices.

    The longest come first: a batch holds rows of like length, and a lack of memory shows at once.

    Args:
        lengths, choices: of all rows, as `Features` has them.
        order: those that this process has, in any order.
    """

    def of(row: int) -> int:
        return choices[row] if choices else 0

    groups = itertools.groupby(sorted(order, key=lambda row: (-of(row), -lengths[row])), of)
    return [batch for _, rows in groups for batch in _chunks(list(rows), size)]


def without_labels(collate: Callable, rows: list[dict]) -> dict[str, torch.Tensor]:
    """The padded batch of rows whose labels are not among the model's classes, and give no loss."""
    return collate([{name: value for name, value in row.items() if name != "labels"} for row in rows])


def padding(args: argparse.Namespace) -> dict:
    """How a collator of transformers pads a batch: to its longest row, or to `--max_seq_length`."""
    return {"padding": "max_length" if args.pad_to_max_length else "longest", "max_length": args.max_seq_length}


class ChoiceCollator(DataCollatorForMultipleChoice):
    """The library's collator, for test sets as well, which have no labels."""

    def torch_call(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Rows -> tensors (B, choices, L), and labels (B,) where there are any."""
        batch = super().torch_call([{"labels": IGNORED_LABEL, **example} for example in examples])
        return batch if "labels" in examples[0] else {name: value for name, value in batch.items() if name != "labels"}


def _chunks(rows: list, size: int) -> list[list]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]

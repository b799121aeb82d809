"""Evaluation and prediction with the plain model; also `Run` and `Head`, which training uses too."""

import argparse
import contextlib
import itertools
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object, send_to_device
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from data.batches import evaluation_batches
from data.features import Features
from models.divergence import IGNORED_LABEL
from training import accumulation
from training.folder import RunFolder
from training.sharding import is_sharded, most, no_gradients
from training.state import Interruption, Means
from training.trackers import Trackers
from utils import InputError, Interrupted, log

if TYPE_CHECKING:
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

FETCHED_TOGETHER = 100  # batches of an evaluation; fetching each would make a GPU wait
INTERRUPTED = "interrupted, and its state saved: the same command with --resume goes on from there"


@dataclass
class Head:
    """The differences between the scripts.

    auto_class: the transformers class that builds the model.
    collate: rows -> padded batch.
    score: (features, logits per row) -> metric name -> value; the first is the primary one, and higher is better.
    write: (path, features, logits per row) -> writes a predictions file; None without test sets.
    loss_name: the name of the training loss in the epoch lines.
    summary: for masked language modelling, (batch, output) -> (B, figures), kept for each row instead of its logits,
        which are too large. There are then no predictions files, the best epoch is the one with the lowest loss, and
        the encoder's own head is used whatever its classes are called.
    in_labels: logits per row for the model's classes -> for the task's labels; None if these are the same.
    """

    auto_class: "type[_BaseAutoModelClass]"
    collate: Callable[[list[dict]], dict[str, torch.Tensor]]
    score: Callable[[Features, list[np.ndarray]], dict[str, float]]
    write: Callable[[Path, Features, list[np.ndarray]], None] | None
    loss_name: str = "train loss"
    summary: Callable[[dict[str, torch.Tensor], Any], torch.Tensor] | None = None
    in_labels: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None

    @property
    def of_words(self) -> bool:
        """Whether the head predicts masked words."""
        return self.summary is not None


@dataclass
class Run:
    """The objects that training, evaluation and prediction share."""

    args: argparse.Namespace
    head: Head
    accelerator: Accelerator
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    folder: RunFolder
    interruption: Interruption | None = None  # in training
    trackers: Trackers = field(default_factory=Trackers)  # likewise
    whole: nn.Module | None = None  # with --fsdp, on the main process: the model that shards are gathered into


def on_device(run: Run, loader: DataLoader) -> DataLoader:
    """The loader with its batches on this process's device; it has only this process's rows already.

    A batch is copied to a GPU, from pinned memory, while the one before it is computed.
    """
    place = {"num_processes": 1, "process_index": 0, "put_on_device": True}
    return prepare_data_loader(loader, run.accelerator.device, **place, non_blocking=True)


def ignore_signals(_: int) -> None:
    """Let a loader process ignore signals sent to the whole group: the main process ends its loaders itself."""
    for number in Interruption.SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def enough_memory(run: Run, what: str, mend: str) -> Iterator[None]:
    """Context that turns a GPU out-of-memory error into an `InputError` that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(f"{run.accelerator.device}: not enough memory for {what}: {mend}") from None


def evaluate(run: Run, sets: dict[str, Features]) -> tuple[dict, dict[str, list[np.ndarray]]]:
    """The scores of all sets, and the logits of each set's rows.

    The scores are `eval_loss` and `eval_score` of the first set, and `metrics` of all sets, with a prefix for the
    others.
    """
    scores: dict[str, Any] = {"eval_loss": None, "eval_score": None, "metrics": {}}
    predictions = {}
    for name, features in sets.items():
        logits, loss = predict(run, features)
        predictions[name] = logits
        metrics = run.head.score(features, logits)
        if run.accelerator.is_main_process:
            log.info(f"{name}: " + ", ".join(f"{metric} {value:.2f}" for metric, value in metrics.items()))
        if not scores["metrics"]:
            scores = {"eval_loss": loss, "eval_score": next(iter(metrics.values())), "metrics": metrics}
        else:
            scores["metrics"] |= {f"{name}/{metric}": value for metric, value in metrics.items()}
    return scores, predictions


def epoch_line(record: dict, loss_name: str) -> str:
    """The line of an epoch, as the release prints it; an epoch has no loss if fp16 skipped all of its steps."""
    loss = math.nan if record["train_loss"] is None else record["train_loss"]
    line = f"Epoch {record['epoch']}: global step = {record['global_step']} | {loss_name} = {loss:.3f}"
    return line if record["eval_score"] is None else f"{line} | {scores_line(record)}"


def scores_line(scores: dict) -> str:
    """The evaluation's part of the epoch line; a set without any label that the model knows has no loss."""
    line = f"eval score = {scores['eval_score']:.2f}"
    return line if scores["eval_loss"] is None else f"{line} | eval loss = {scores['eval_loss']:.3f}"


def predict(run: Run, features: Features) -> tuple[list[np.ndarray], float | None]:
    """The plain model's predictions; each row is computed by one of the processes.

    Returns:
        The logits of each row, in the order of the rows, and the mean loss per label, or None without labels.

    Raises:
        InputError: the device does not have enough memory.
        Interrupted: a signal stops a training run.
    """
    batch = f"an evaluation with --eval_batch_size {run.args.eval_batch_size}"
    with enough_memory(run, batch, "lower it"), no_gradients(run.model):
        return _predict(run, features)


def _predict(run: Run, features: Features) -> tuple[list[np.ndarray], float | None]:
    accelerator = run.accelerator
    order = sorted(range(len(features)), key=lambda row: -features.lengths[row])
    order = order[accelerator.process_index :: accelerator.num_processes]
    batches = evaluation_batches(features.lengths, features.choices, order, run.args.eval_batch_size)
    loader = DataLoader(
        features,
        batch_sampler=batches,
        collate_fn=run.head.collate,
        num_workers=run.args.num_workers,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),  # so that evaluation draws nothing from the model's generator
        worker_init_fn=ignore_signals,
    )
    # Without the wrapper that synchronises processes: they may have different numbers of batches.
    model = accelerator.unwrap_model(run.model).eval()
    calls = most(len(batches), accelerator) if is_sharded(model) else 0
    logits, fetched, losses = [], [], Means()
    for batch in on_device(run, loader):
        # Several processes finish first: with different numbers of batches, they cannot agree to stop.
        if run.interruption and run.interruption.alone and run.interruption.noted:
            raise Interrupted(run.interruption.noted, INTERRUPTED)
        output = model(**batch)
        kept = run.head.summary(batch, output) if run.head.summary else output.logits.float()
        logits.append(kept)
        if len(logits) == FETCHED_TOGETHER:
            fetched += _rows(logits)
        if output.loss is not None:
            count = labelled(batch["labels"])
            losses.add({"sum": accumulation.of_labels(output.loss, (count, 1)), "labels": count})
    for _ in range(calls - len(batches)):  # the others need this process's shards for their calls
        model(**send_to_device(run.head.collate([features[0]]), accelerator.device))
    sums = {name: figure.item() for name, figure in losses.sums.items()}
    fetched += _rows(logits)
    found = gather_object([(dict(zip(itertools.chain(*batches), fetched, strict=True)), sums)])  # one entry per process
    rows = {row: values for own, _ in found for row, values in own.items()}
    labels = sum(sums.get("labels", 0) for _, sums in found)
    loss = sum(sums.get("sum", 0.0) for _, sums in found) / labels if labels else None
    return [rows[row] for row in range(len(features))], loss


def _rows(batches: list[torch.Tensor]) -> list[np.ndarray]:
    """Take the batches out of the list, and return their rows in the memory of the host."""
    rows = [row for batch in batches for row in batch.cpu().numpy()]
    batches.clear()
    return rows


def of_masked_words(batch: dict[str, torch.Tensor], output) -> torch.Tensor:
    """(B, 3): for each row, the sum of its masked words' losses, their number, and how many are predicted right."""
    labels, logits = batch["labels"], output.logits.float()  # (B, M), (B, M, V)
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED_LABEL, reduction="none")
    figures = losses, labels != IGNORED_LABEL, logits.argmax(-1) == labels
    return torch.stack([figure.sum(1, dtype=torch.float32) for figure in figures], dim=1)  # some devices lack float64


def labelled(labels: torch.Tensor) -> torch.Tensor:
    """The number of labels in a batch, on its device; in a regression, every target counts, whatever its value."""
    return ((labels != IGNORED_LABEL) | labels.is_floating_point()).sum()

"""States: everything that an interrupted run needs to continue exactly where it was.

A state is a folder of tensors (safetensors) and numbers (JSON), which cannot contain code, with their SHA256SUMS. It is
saved between two optimizer steps, so it has no gradients.
"""

import hashlib
import itertools
import json
import math
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from data.batches import StepSampler
from data.features import Features
from data.masking import MaskedRows
from training.devices import PATIENCE, wait_for_all
from training.sharding import copy_whole, whole_tensors
from utils import InputError, StopSignals, atomic_folder, counted, file_sha256, log

MODEL, OPTIMIZER, PROGRESS, SUMS = "model.safetensors", "optimizer.safetensors", "progress.json", "SHA256SUMS"
READ_TOGETHER = 10_000  # rows whose tokens are in memory at once


class Means:
    """Running sums of figures, kept on the device until their means are requested."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.added: torch.Tensor | int = 0

    def add(self, figures: dict[str, torch.Tensor], counts: torch.Tensor | None = None) -> None:
        """Add one figure for each name.

        Args:
            counts: whether these figures count, as a tensor on the device; if not, they may be nan.
        """
        for name, figure in figures.items():
            figure = figure.float() if counts is None else torch.where(counts, figure.float(), 0.0)
            self.sums[name] = self.sums.get(name, 0) + figure
        self.added = self.added + (1 if counts is None else counts.long())

    def take(self, reduce: Callable) -> dict[str, Any]:
        """The means since the last call, each a number or a list; none if nothing counted.

        Args:
            reduce: sums a tensor over the processes.
        """
        added = int(self.added)
        means = {name: (total / added).tolist() for name, total in reduce(self.sums).items()} if added else {}
        self.sums, self.added = {}, 0
        return means

    def state_dict(self) -> dict:
        """The sums as plain numbers, which represent the float32 values exactly."""
        return {"added": int(self.added), "sums": {name: total.tolist() for name, total in self.sums.items()}}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        self.added = state["added"]
        self.sums = {name: torch.tensor(total, device=device) for name, total in state["sums"].items()}


@dataclass
class Progress:
    """The progress of a run, and its records so far.

    broken: the first step that was not finite, or 0; on the device.
    skipped: (2,), the steps that fp16 skipped in this epoch, and the latest ones skipped in a row; on the device.
    """

    broken: torch.Tensor
    skipped: torch.Tensor
    epoch: int = 0
    step: int = 0  # optimizer steps taken
    step_of_epoch: int = 0
    seconds: float = 0.0  # training time in this epoch
    epochs: list[dict] = field(default_factory=list)  # the records of results.json
    metrics: list[dict] = field(default_factory=list)  # the lines of metrics.jsonl
    segments: list[dict] = field(default_factory=list)  # which steps were taken with which code and libraries
    of_epoch: Means = field(default_factory=Means)
    of_window: Means = field(default_factory=Means)
    by_loss: bool = False  # the best epoch has the lowest loss

    PLAIN = ("epoch", "step", "step_of_epoch", "seconds", "epochs", "metrics", "segments")

    @property
    def best(self) -> dict | None:
        """The epoch with the best score or the lowest loss, the first of equals; without an evaluation the last."""
        best = None
        for record in self.epochs:
            if best is None or record["eval_score"] is None or self._better(record, best):
                best = record
        return best

    def _better(self, record: dict, best: dict) -> bool:
        if self.by_loss:
            return _finite_loss(record) < _finite_loss(best)
        return record["eval_score"] > best["eval_score"]

    def begin_segment(self, versions: dict[str, str | None]) -> None:
        """Record that the following steps are taken with these versions."""
        self.segments.append({"from_step": self.step, "to_step": self.step, "versions": versions})

    def count_step(self) -> None:
        """Count one optimizer step."""
        self.step += 1
        self.step_of_epoch += 1
        self.segments[-1]["to_step"] = self.step


def _finite_loss(record: dict) -> float:
    """An epoch's loss; infinity if it is nan, which is not below any other."""
    loss = record["eval_loss"]
    return loss if loss is not None and math.isfinite(loss) else math.inf


@dataclass
class TrainingState:
    """Everything that training changes, to be saved and restored together.

    model: without a distributed wrapper. sampler: of the training rows. data: what the training rows and each
        evaluated set are called in messages -> their `data_identity`.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    accelerator: Accelerator
    progress: Progress
    sampler: StepSampler
    data: dict[str, str]

    def save(self, path: Path) -> None:
        """Write a state folder, completely or not at all; every process must call this.

        Raises:
            InputError: the folder cannot be written.
        """
        progress, accelerator = self.progress, self.accelerator
        own = {"random": random_states(accelerator.device), "of_epoch": progress.of_epoch.state_dict()}
        processes = gather_object([own | {"of_window": progress.of_window.state_dict()}])
        main = accelerator.is_main_process
        model = whole_tensors(_tensors(self.model), keep=main)
        optimizer = whole_tensors(_optimizer_tensors(self.optimizer), keep=main)
        if main:
            figures = {name: getattr(progress, name) for name in Progress.PLAIN}
            figures |= {
                "skipped": progress.skipped.tolist(),
                "data": self.data,
                "processes": processes,
            }
            figures["scheduler"] = self.scheduler.state_dict()
            figures["scaler"] = accelerator.scaler.state_dict() if accelerator.scaler else None
            figures["optimizer"] = _settings(self.optimizer.param_groups)
            with atomic_folder(path) as folder:
                save_file({name: each.contiguous() for name, each in model.items()}, folder / MODEL)
                save_file(optimizer, folder / OPTIMIZER)
                (folder / PROGRESS).write_text(json.dumps(figures), encoding="utf-8")
                sums = [f"{file_sha256(folder / name)}  {name}\n" for name in (MODEL, OPTIMIZER, PROGRESS)]
                (folder / SUMS).write_text("".join(sums), encoding="utf-8")
        wait_for_all(accelerator)

    def load(self, path: Path, versions: dict[str, str | None] | None = None) -> None:
        """Restore a saved state, on this process.

        Args:
            versions: this process's versions, which must be those of the state; None accepts any.

        Raises:
            InputError: the state was saved with other code, another model, other data or another number of processes.
        """
        accelerator, progress = self.accelerator, self.progress
        figures = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
        # States from before segments were recorded have none.
        figures.setdefault("segments", [{"from_step": 0, "to_step": figures["step"], "versions": None}])
        if versions is not None:
            _check_versions(path, figures["segments"][-1]["versions"], versions)
        processes = len(figures["processes"])
        if processes != accelerator.num_processes:
            many = counted(processes, "process", "processes")
            raise InputError(f"{path}: saved by {many}, not {accelerator.num_processes}: start as many")
        # Older states know the training rows alone.
        known = {"the training data": figures["data"]} if isinstance(figures["data"], str) else figures["data"]
        for name, identity in known.items():
            own = self.data.get(name, "")
            if identity not in (own, own.partition(":")[0]):  # older states know no tokens
                raise InputError(f"{path}: {name}, or how it is tokenised, has changed since then: restore it")
        saved, tensors = load_file(path / MODEL), _tensors(self.model)
        if {name: tensor.shape for name, tensor in saved.items()} != {name: tensors[name].shape for name in tensors}:
            raise InputError(f"{path}: the state of another model: give the encoder that the run began with")
        for name, tensor in tensors.items():
            copy_whole(tensor, saved[name])
        self._load_optimizer(load_file(path / OPTIMIZER), figures["optimizer"])
        self.scheduler.load_state_dict(figures["scheduler"])
        if accelerator.scaler and figures["scaler"]:
            accelerator.scaler.load_state_dict(figures["scaler"])
        for name in Progress.PLAIN:
            setattr(progress, name, figures[name])
        progress.skipped = torch.tensor(figures["skipped"], device=accelerator.device)
        mine = figures["processes"][accelerator.process_index]
        progress.of_epoch.load_state_dict(mine["of_epoch"], accelerator.device)
        progress.of_window.load_state_dict(mine["of_window"], accelerator.device)
        restore_random_states(mine["random"], accelerator.device)

    def _load_optimizer(self, tensors: dict[str, torch.Tensor], settings: list[dict]) -> None:
        state = self.optimizer.state_dict()
        state["state"] = {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for name, tensor in tensors.items():
            number, _, key = name.partition(".")
            parameter = parameters[int(number)]
            if tensor.shape == parameter.shape:  # not the step count
                whole, tensor = tensor, torch.empty_like(parameter, dtype=tensor.dtype)
                copy_whole(tensor, whole)
            state["state"].setdefault(int(number), {})[key] = tensor
        for group, saved in zip(state["param_groups"], settings, strict=True):
            group.update(saved)
        self.optimizer.load_state_dict(state)


def latest_good(states: list[Path]) -> Path | None:
    """The last of these states whose checksums are right; damaged ones are logged.

    Raises:
        InputError: there are states, but all are damaged.
    """
    for path in reversed(states):
        if (damaged := damage(path)) is None:
            return path
        log.warning(f"{path}: {damaged}: taking the state before it")
    if states:
        raise InputError(f"{states[-1].parent}: every state is damaged: start again with --overwrite_output_dir")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a state's files; None if they are intact."""
    try:
        lines = (path / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: expected for expected, name in (line.split() for line in lines)}
    except (OSError, ValueError):
        return f"a damaged state ({SUMS} is missing or not readable)"
    for name in (MODEL, OPTIMIZER, PROGRESS):
        try:
            if sums.get(name) != file_sha256(path / name):
                return f"a damaged state (the checksum of {name} is wrong)"
        except OSError:
            return f"a damaged state ({name} is missing)"
    return None


def _check_versions(path: Path, saved: dict[str, str | None] | None, now: dict[str, str | None]) -> None:
    """Raise `InputError` if a state was saved with other code or libraries; unknown versions are not compared."""
    if saved is None:
        raise InputError(
            f"--resume: {path} does not say which code and libraries saved it, as older code did not: add"
            " --resume_changed_code to go on all the same"
        )
    known = [name for name in now if None not in (saved.get(name), now[name])]
    changed = [f"{name} {saved[name]}, not {now[name]}" for name in known if saved[name] != now[name]]
    if changed:
        raise InputError(
            f"--resume: {path} was saved with {', '.join(changed)}: go on with what the run began with, or add"
            " --resume_changed_code to go on with what there is now"
        )


class Interruption(StopSignals):
    """Context in which SIGTERM and Ctrl-C are noted, not obeyed; a later second signal is obeyed at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, accelerator: Accelerator):
        super().__init__(*self.SIGNALS)
        self.alone = accelerator.num_processes == 1
        # The processes agree over a separate CPU group, so that no device has to wait.
        self.group = None if self.alone else torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

    def insist(self, number: int) -> None:
        self.__exit__()
        signal.raise_signal(number)

    def agreed(self) -> int:
        """The signal that any process has received, or 0; all processes must call this together."""
        if self.alone:
            return self.noted
        noted = torch.tensor(self.noted)
        torch.distributed.all_reduce(noted, torch.distributed.ReduceOp.MAX, group=self.group)
        return int(noted)


def data_identity(features: Features) -> str:
    """Checksums that identify a set's rows: of their lengths and labels, and after a colon of their tokens."""
    if isinstance(features, MaskedRows):
        return features.identity()
    labels = [np.asarray(label).tolist() for label in features.columns["labels"][:]]
    rows = hashlib.sha256(json.dumps([list(features.lengths), labels]).encode())
    tokens = hashlib.sha256()
    for first in range(0, len(features), READ_TOGETHER):
        tokens.update(json.dumps(features.columns["input_ids"][first : first + READ_TOGETHER]).encode())
    return f"{rows.hexdigest()}:{tokens.hexdigest()}"


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's parameters and buffers, sharing its storage; tied tensors appear under their first name."""
    first = {name for name, _ in itertools.chain(model.named_parameters(), model.named_buffers())}
    return {name: tensor for name, tensor in model.state_dict().items() if name in first}


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{number}.{key}": tensor for number, each in state.items() for key, tensor in each.items()}


def _settings(groups: list[dict]) -> list[dict]:
    """The settings of parameter groups: mainly learning rates; apex stores its step count there too."""
    return [{name: value for name, value in group.items() if isinstance(value, int | float)} for group in groups]


def random_states(device: torch.device) -> dict:
    """The states of all generators that a step may draw from."""
    numpy_state = np.random.get_state(legacy=False)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    states = {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state().tolist()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(*_of_device(device)).tolist()
    return states


def restore_random_states(states: dict, device: torch.device) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = states["numpy"]
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    if device.type in states:
        state = torch.tensor(states[device.type], dtype=torch.uint8)
        torch.get_device_module(device).set_rng_state(state, *_of_device(device))


def _of_device(device: torch.device) -> tuple[torch.device, ...]:
    """What the generator functions of a device's module take: Apple's has one device alone."""
    return () if device.type == "mps" else (device,)

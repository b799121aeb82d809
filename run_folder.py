"""What a run leaves behind in `--output_dir`."""

import argparse
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate import Accelerator

from utils import InputError, finite, write_json

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "scipy", "scikit-learn", "seqeval")


class RunFolder:
    """The files of one run.

    results.json       arguments, versions, device, a record an epoch, the best epoch
    eval_results.txt   the printed line of each epoch
    metrics.jsonl      a record a logging step
    best/              the best epoch as a stock Hugging Face folder
    <epoch>_pytorch_model.bin, <TEST SET>.tsv, evaluation.json (an evaluation without training)
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.results = self.path / "results.json"
        self.lines = self.path / "eval_results.txt"
        self.metrics = self.path / "metrics.jsonl"
        self.best = self.path / "best"
        self.evaluation = self.path / "evaluation.json"

    def checkpoint(self, epoch: int) -> Path:
        return self.path / f"{epoch}_pytorch_model.bin"

    def submission(self, name: str) -> Path:
        return self.path / f"{name}.tsv"

    def submissions(self, task) -> list[Path]:
        """The predictions files of a task, there or not."""
        return [self.submission(data_set.submission) for data_set in task.submissions.values()]

    def trained(self) -> list[Path]:
        """What an earlier training run left here."""
        files = [self.results, self.lines, self.metrics, self.best]
        return [path for path in files if path.exists()] + sorted(self.path.glob("[0-9]*_pytorch_model.bin"))

    def check(self, args: argparse.Namespace, task) -> None:
        """Raise `InputError` if the folder has results that this run would replace and may not; writes nothing.

        A folder that cannot be written is one too: found here, and not after the first epoch.
        """
        there = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"--output_dir {self.path}: the file {there.name} is in the way")
        if not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"--output_dir {self.path}: cannot be written (Permission denied in {there})")
        used = self.trained() if args.do_train else []
        if args.do_eval and not args.do_train:
            used.append(self.evaluation)
        if args.do_test:
            used += self.submissions(task)
        used = [path for path in used if path.exists()]
        if used and not args.overwrite_output_dir:
            raise InputError(
                f"--output_dir {self.path}: it has results already ({used[0].name}):"
                " give another folder, or --overwrite_output_dir to replace them"
            )

    def open(self, args: argparse.Namespace, task) -> None:
        """Make the folder, and clear what a training run replaces.

        Raises:
            InputError: the folder cannot be written, or `check` fails.
        """
        self.check(args, task)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # What was made from the weights that go belongs to them.
            made = [self.evaluation, self.path / "tensorboard", *self.submissions(task)]
            for path in [*self.trained(), *filter(Path.exists, made)] if args.do_train else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            raise InputError(f"--output_dir {self.path}: cannot be written ({error.strerror})") from None

    def add_line(self, line: str) -> None:
        with open(self.lines, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def add_metrics(self, record: dict) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite(record), allow_nan=False) + "\n")

    def write_results(self, record: dict) -> None:
        write_json(self.results, record)

    def write_evaluation(self, record: dict) -> None:
        write_json(self.evaluation, record)


def describe(args: argparse.Namespace, accelerator: Accelerator, examples: dict[str, int]) -> dict:
    """The head of a results file: every argument as given, what it ran on and with, how many examples there were."""
    return {
        "args": vars(args),
        "versions": versions(),
        "device": _device(accelerator.device),
        "precision": {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision),
        "examples": examples,
    }


def versions() -> dict[str, str | None]:
    """Package name -> version, and `code`: the commit of this project; None for what is not known."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=10)
        found["code"] = done.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        found["code"] = None
    return found


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
        return f"cpu: {name}, {torch.get_num_threads()} threads"
    return device.type

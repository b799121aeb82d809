"""What a run leaves behind in `--output_dir`."""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from training.arguments import EXECUTION, SETTLED
from training.state import damage, latest_good
from utils import InputError, finite, remove_folder, write_json, write_text, writing

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "scipy", "scikit-learn", "seqeval")


class RunFolder:
    """The files of one run.

    results.json       arguments, versions, device, a record an epoch, the best epoch, whether the run has finished
    eval_results.txt   the printed line of each epoch
    metrics.jsonl      a record a logging step
    best/              the best epoch as a stock Hugging Face folder
    predictions/       label and logits of each evaluated row, a file a set
    <epoch>_pytorch_model.bin, <TEST SET>.tsv, evaluation.json (an evaluation without training)
    states/            until the run has finished: what it takes to go on from a step
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.results = self.path / "results.json"
        self.lines = self.path / "eval_results.txt"
        self.metrics = self.path / "metrics.jsonl"
        self.best = self.path / "best"
        self.predictions = self.path / "predictions"
        self.evaluation = self.path / "evaluation.json"
        self.states = self.path / "states"
        self._lock = FileLock(self.path / ".lock")

    def checkpoint(self, epoch: int) -> Path:
        return self.path / f"{epoch}_pytorch_model.bin"

    def state(self, step: int, evaluated: bool) -> Path:
        return self.states / f"{step:08d}{'-evaluated' if evaluated else ''}"

    def saved_states(self) -> list[Path]:
        """The states of this run, oldest first."""
        return sorted(self.states.glob("[0-9]*"))

    def submission(self, name: str) -> Path:
        return self.path / f"{name}.tsv"

    def submissions(self, task) -> list[Path]:
        """The predictions files of a task, there or not."""
        return [self.submission(data_set.submission) for data_set in task.submissions.values()]

    def trained(self) -> list[Path]:
        """What an earlier training run left here."""
        files = [self.results, self.lines, self.metrics, self.best, self.predictions, self.states]
        return [path for path in files if path.exists()] + sorted(self.path.glob("[0-9]*_pytorch_model.bin"))

    def check(self, args: argparse.Namespace, task) -> None:
        """Raise `InputError` if this run may not use the folder as it is; writes nothing.

        It cannot be written, which is better found now than after an epoch; or it has results that the run would
        replace and may not; or it does not have the run that is to be resumed.
        """
        there = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.exists())
        if not there.is_dir():
            raise InputError(f"--output_dir {self.path}: the file {there.name} is in the way")
        if not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"--output_dir {self.path}: cannot be written (Permission denied in {there})")
        if args.resume:
            self._check_resumed(args)
            return
        used = self.trained() if args.do_train else []
        if args.do_eval and not args.do_train:
            used.append(self.evaluation)
        if args.do_test:
            used += self.submissions(task)
        used = [path for path in used if path.exists()]
        if used and not args.overwrite_output_dir:
            unfinished = args.do_train and self.saved_states()
            raise InputError(
                f"--output_dir {self.path}: it has results already ({used[0].name}): give another folder,"
                f" {'--resume to go on with them, ' if unfinished else ''}or --overwrite_output_dir to replace them"
            )

    def _check_resumed(self, args: argparse.Namespace) -> None:
        begun = self.read_results()
        if begun is None:
            raise InputError(f"--resume: there is no run in --output_dir {self.path}: to begin one, leave --resume out")
        # As a file would give them back.
        given = json.loads(json.dumps(vars(args)))
        for name in sorted(given.keys() & begun["args"].keys() - EXECUTION, key=lambda name: (name in SETTLED, name)):
            if given[name] != begun["args"][name]:
                raise InputError(
                    f"--{name} {given[name]}: the run in {self.path} began with {begun['args'][name]}:"
                    " resume it with that, or begin another in another --output_dir"
                )

    def check_same(self, record: dict) -> None:
        """Raise `InputError` if the run to be resumed began on another kind of device, or with other data.

        Args:
            record: what `describe` says now.
        """
        begun = self.read_results()
        known = {"precision": lambda results: results["precision"], "device": lambda results: results["device"][:4]}
        known["number of rows"] = lambda results: {name: results["examples"].get(name) for name in ("train", "eval")}
        for name, of in known.items():
            if of(record) != of(begun):
                raise InputError(
                    f"--resume: the {name} is {of(record)}, and the run in {self.path} began with {of(begun)}:"
                    " resume it with that"
                )

    def state_to_resume(self, resume: str) -> Path | None:
        """The state that `--resume` means, checked; None if the run was cut off before it saved any.

        Raises:
            InputError: it is not a state of this run, or it is damaged.
        """
        if resume == "latest":
            return latest_good(self.saved_states())
        path = Path(resume)
        if path.resolve() not in [state.resolve() for state in self.saved_states()]:
            raise InputError(f"--resume {path}: not a state in {self.states}")
        if damaged := damage(path):
            raise InputError(f"--resume {path}: {damaged}: --resume alone takes the latest good one")
        return path

    def read_results(self) -> dict | None:
        """What the results file tells; None if there is none.

        Raises:
            InputError: it is not the results file of a run.
        """
        if not self.results.exists():
            return None
        try:
            results = json.loads(self.results.read_text(encoding="utf-8"))
            results["args"].keys(), len(results["epochs"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{self.results}: not the results file of a run") from None
        return results

    def open(self, args: argparse.Namespace, task) -> None:
        """Make the folder, keep other runs out of it, and clear what a training run replaces.

        Raises:
            InputError: the folder cannot be written, another run is at work in it, or `check` fails.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            self.check(args, task)
            # What was made from the weights that go belongs to them, also where the folders below hold scores on other
            # sets; it goes first, so that a start that is cut off here leaves nothing that the next one passes over.
            trained = self.trained()
            scores = [self.evaluation, *(self.path.glob(f"*/{self.evaluation.name}") if trained else ())]
            made = [*scores, self.path / "tensorboard", *self.submissions(task)]
            for path in [*filter(Path.exists, made), *trained] if args.do_train and not args.resume else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except Timeout:
            raise InputError(
                f"--output_dir {self.path}: another run is at work in it: wait for its end, or give another folder"
            ) from None
        except OSError as error:
            raise InputError(f"--output_dir {self.path}: cannot be written ({error.strerror})") from None

    @contextlib.contextmanager
    def last_state_named(self) -> Iterator[None]:
        """Within this block, an error also says from which state the run can go on."""
        try:
            yield
        except InputError as error:
            states = self.saved_states()
            after = (
                f"the last good state is {states[-1]}: --resume goes on from it" if states else "no state is saved yet"
            )
            raise InputError(f"{error}; {after}") from error

    def drop_states_after(self, path: Path | None) -> None:
        """Remove the states that are later than the one from which the run goes on: damaged, or passed over."""
        for later in self.saved_states():
            if path is None or later.name > path.name:
                remove_folder(later)

    def keep_states(self, limit: int) -> None:
        """Remove all but the latest states."""
        for path in self.saved_states()[:-limit]:
            remove_folder(path)

    def finish(self) -> None:
        """Say that the training run is complete, and remove what only an unfinished one needs."""
        self.write_results(self.read_results() | {"finished": True})
        if self.states.exists():
            remove_folder(self.states)

    def close(self) -> None:
        """Let other runs in."""
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def write_lines(self, lines: Iterable[str]) -> None:
        write_text(self.lines, "".join(f"{line}\n" for line in lines))

    def write_metrics(self, records: Iterable[dict]) -> None:
        write_text(self.metrics, "".join(map(_line, records)))

    def add_metrics(self, record: dict) -> None:
        with writing(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(_line(record))

    def write_results(self, record: dict) -> None:
        write_json(self.results, record)

    def write_evaluation(self, record: dict) -> None:
        write_json(self.evaluation, record)


def _line(record: dict) -> str:
    return json.dumps(finite(record), allow_nan=False) + "\n"


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

"""Experiment trackers: those supported by Accelerate, chosen by `--report_to`.

They receive the arguments, the figures of each logging step, and the scores of each epoch. A tracker that cannot start
ends the run before anything is written; one that fails later is dropped with a warning.
"""

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import InputError, log, short, write_json

# Name -> the arguments with which a tracker continues its earlier run, given the id. Without any, a resumed run is a
# new run to the tracker, without the steps reported before.
RESUMED: dict[str, dict[str, Any]] = {
    "aim": {},
    "clearml": {},
    "comet_ml": {},
    "dvclive": {},
    "mlflow": {"run_id": "{id}"},
    "swanlab": {},
    "tensorboard": {},  # it can retract steps (`purge_step`)
    "trackio": {"name": "{id}", "resume": "allow"},
    "wandb": {"id": "{id}", "resume": "allow"},
}
IN_OUTPUT_DIR = ("aim", "tensorboard")  # trackers that write to the output folder; the others have their own place
PROJECT = "adversarial-self-attention"
EVENTS_SUFFIX = ".asa"  # distinguishes our event files from another tool's in the same tensorboard/


def chosen(given: str | Sequence[str]) -> str:
    """The value of `--report_to` as one word: names separated by commas, or "none".

    Raises:
        InputError: a tracker is unknown, or its package is not installed.
    """
    words = (given if isinstance(given, str) else ",".join(given)).split(",")
    names = list(dict.fromkeys(word.strip().lower() for word in words if word.strip()))
    if len(names) != 1 and {"none", "all"} & {*names}:
        raise InputError(f"--report_to {' '.join(names)}: none and all stand alone: give one of them, or names")
    for name in names:
        if name not in (*RESUMED, "none", "all"):
            raise InputError(f"--report_to {name}: no such tracker: choose from none, all, {', '.join(RESUMED)}")
    if names == ["all"]:
        names = [name for name in RESUMED if _installed(name)]
        if not names:
            raise InputError(f"--report_to all: no tracker is installed: pip install one of {', '.join(RESUMED)}")
    for name in names:
        if name != "none" and not _installed(name):
            raise InputError(f"--report_to {name}: the package is not installed; pip install {name}")
    return ",".join(names) or "none"


def _installed(name: str) -> bool:
    """Whether the package is installed; a folder that a tracker made in the working directory does not count."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


class Trackers:
    """The trackers of one run, on its main process; other processes have none.

    Args:
        report_to: what `chosen` returns.
        output_dir: the folder of the run.
        record: `trackers.json` in it: for each tracker, the id of its run, the last step and epoch reported to it when
            the process began or the tracker failed, and whether it failed.
        resume: whether the run is resumed.
    """

    def __init__(self, report_to: str = "none", output_dir: Path = Path(), record: Path = Path(), resume: bool = False):
        self.names = [name for name in report_to.split(",") if name != "none"]
        self.output_dir, self.record = output_dir, record
        self.known: dict[str, dict] = _read(record) if resume else {}
        self.running: dict[str, Any] = {}
        self.reported: dict[str, dict[str, int]] = {}  # tracker -> the last step and epoch that this process reported

    def start(self, arguments: Mapping[str, Any], here: bool, step: int = 0) -> None:
        """Start the trackers that write to the output folder (`here`), or the others.

        Args:
            arguments: the run's arguments, reported to a tracker that does not have them yet.
            step: steps after it will be reported again; trackers that can retract steps do so.

        Raises:
            InputError: a tracker cannot be started.
        """
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # takes seconds

        said = {name: _plain(value) for name, value in arguments.items()}
        for name in [name for name in self.names if (name in IN_OUTPUT_DIR) == here and name not in self.running]:
            known = self.known.get(name, {})
            project = os.environ.get(f"{name.upper()}_PROJECT") or PROJECT
            try:
                if name == "tensorboard":
                    taken_back = step + 1 if step else 0
                    settings = {"purge_step": taken_back, "filename_suffix": EVENTS_SUFFIX}
                    tracker = LOGGER_TYPE_TO_CLASS[name](name, self.output_dir, **settings)
                elif here:
                    tracker = LOGGER_TYPE_TO_CLASS[name](project, self.output_dir)
                else:
                    tracker = LOGGER_TYPE_TO_CLASS[name](project, **self._settings(name, known.get("id")))
                tracker.start()
                self.running[name] = tracker
                if name == "tensorboard" and not step:  # it would make a folder for its own form of the arguments
                    tracker.log({"arguments": "\n".join(f"    {each}: {value}" for each, value in said.items())}, 0)
                elif not known.get("id") and name != "tensorboard":
                    tracker.store_init_configuration(said)
            except (Exception, SystemExit) as error:  # its package may raise anything
                self.finish()
                raise InputError(
                    f"--report_to {name}: it cannot be started ({_sentence(error)}): set it up, or leave it out"
                ) from error

    def _settings(self, name: str, known: str | None) -> dict[str, Any]:
        if name == "mlflow":  # it must be told twice that a folder as its store is intended
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        if known and RESUMED[name]:
            return {key: value.format(id=known) for key, value in RESUMED[name].items()}
        named = {"mlflow": "run_name", "trackio": "name", "wandb": "name"}
        return {named[name]: str(self.output_dir)} if name in named else {}

    def begin(self, steps: int, epochs: int) -> None:
        """Record the last step reported to the trackers, for steps and for epochs.

        Args:
            steps: the last step recorded in the folder's files; repeated steps are not reported again.
            epochs: the same for the last epoch.
        """
        now = {"steps": steps, "epochs": epochs}
        for name in {**self.known, **self.running}:  # also of a tracker that is left out this time
            known = self.known.get(name, {})
            # What was recorded after a tracker failed has not been reported to it.
            told = {
                kind: known.get(kind, 0) if known.get("failed") else max(now[kind], known.get(kind, 0)) for kind in now
            }
            fresh = not known or not RESUMED[name]
            identity = _id(name, self.running[name]) if name in self.running else known.get("id")
            self.known[name] = {"id": identity} | (dict.fromkeys(told, 0) if fresh else told)
            if known.get("failed") and name not in self.running:
                self.known[name]["failed"] = True
        if self.known:
            write_json(self.record, self.known)

    def log(self, kind: str, figures: Mapping[str, Any], step: int) -> None:
        """Report a logging step ("steps"), or the end of an epoch ("epochs")."""
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        for name, tracker in list(self.running.items()):
            if step <= self.known.get(name, {}).get(kind, 0):
                continue
            try:
                tracker.log(numbers, step=step)
                self.reported.setdefault(name, {})[kind] = step
            except Exception as error:
                log.warning(f"--report_to {name}: it fails, and is told nothing more ({_sentence(error)})")
                self._end(name)
                self.known[name] = self.known.get(name, {}) | self.reported.get(name, {}) | {"failed": True}
                write_json(self.record, self.known)

    def finish(self) -> None:
        """End the run in each tracker."""
        for name in list(self.running):
            self._end(name)

    def _end(self, name: str) -> None:
        try:
            self.running.pop(name).finish()
        except Exception as error:
            log.warning(f"--report_to {name}: it fails at its end ({_sentence(error)})")


def _id(name: str, tracker: Any) -> str | None:
    """The id that a tracker gave its run."""
    if not RESUMED[name]:
        return None
    run = tracker.tracker
    return run.info.run_id if name == "mlflow" else run.name if name == "trackio" else run.id


def _plain(value: Any) -> Any:
    """An argument in a form that every tracker accepts."""
    return value if isinstance(value, bool | int | float | str) else short(value)


def _read(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

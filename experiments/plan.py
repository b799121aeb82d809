"""The runs of a grid, the command of each, and its status.

A run is a command of one of the scripts with its own folder, which shows whether it is finished, cut off or new.
"""

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data import columns, own, own_flags, own_sets
from data.task_kinds import Recipe, SentenceTask, Task
from data.tasks import TASKS
from experiments.records import different_settings, is_finished, parsed, read_run
from training.flags import Default
from utils import InputError, file_sha256

KEPT = ("all", "last", "none")  # which weights of a finished run a grid keeps
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Variant:
    """One row of a table: a method, and those of its flags that differ from the defaults.

    label: the name of its runs' folders.
    """

    label: str
    method: str
    flags: tuple[str, ...] = ()


@dataclass
class Planned:
    """One run of a grid.

    name: its folder below the grid's folder.
    args: the parsed arguments of `command`; for an evaluation, those of the training.
    needs: the run whose last checkpoint an evaluation uses.
    scored: the file that an evaluation scores; empty if it scores a task's own test set.
    after: the run whose best epoch is the encoder that this run fine-tunes.
    """

    name: str
    folder: Path
    task: Task
    variant: Variant
    command: list[str]
    args: dict
    needs: "Planned | None" = None
    scored: str = ""
    after: "Planned | None" = None

    @property
    def waits_for(self) -> "Planned | None":
        """The run that has to finish first."""
        return self.needs or self.after

    @property
    def steps(self) -> int:
        """The number of optimizer steps of a run on the complete training set."""
        return self.args["max_train_steps"] or self.args["num_train_epochs"] * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        assert self.task.recipe is not None  # `plan_runs` has checked this
        return math.ceil(self.task.recipe.train_examples / self.args["train_batch_size"])


# The suffixes of the data files in a folder that is a task: tables, and files with a word and its tag per line.
FILES_OF_TASKS = (*columns.SUFFIXES, ".txt", ".conll", ".conllu", ".iob", ".bio", "")


@dataclass(frozen=True)
class OtherSet:
    """A set that a trained model is scored on: the test set of another task, or a file in a task's format."""

    task: str
    file: str = ""

    @property
    def label(self) -> str:
        return f"on-{Path(self.file).stem if self.file else self.task}"


def plan_runs(
    folder: Path,
    tasks: Sequence[Task],
    variants: Sequence[Variant],
    seeds: Sequence[int] | int | None,
    flags: list[str],
) -> list[Planned]:
    """Every run of task x variant x seed, in the order in which they are started.

    All tasks and variants run with their first seed before any runs with its second, so that an interrupted grid is
    balanced.

    Args:
        seeds: None for as many as were published; or how many, from 42 on; or a list.
        flags: passed to every run.

    Raises:
        InputError: a task has no published settings, a script does not accept the flags, one of them is set by a row,
            or two rows have the same settings.
    """
    of_rows = {flag for variant in variants for flag in variant.flags[::2]}
    for part in flags:
        if part.partition("=")[0] in of_rows:
            raise InputError(f"{part} after --: rows of the grid set it themselves")
    runs = []
    for task in tasks:
        if task.recipe is None:
            raise InputError(f"--tasks {task.name}: it has no recipe in data/tasks.py")
        count = seeds or task.recipe.seeds
        for place, seed in enumerate(range(42, 42 + count) if isinstance(count, int) else count):
            labels: dict[str, str] = {}  # setting -> label of its row
            for variant in variants:
                name = f"{task.name}/{variant.label}/seed{seed}"
                settings = {"task_name": task.name, **task.recipe.settings(), "method": variant.method, "seed": seed}
                given = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
                given = ["--do_train", "--do_eval", *given, *variant.flags, *flags, "--output_dir", str(folder / name)]
                args = parsed(task, given)  # to find a wrong flag before the first run
                setting = json.dumps({**args, "output_dir": None}, sort_keys=True)
                if setting in labels:
                    raise InputError(f"{labels[setting]} and {variant.label} are one setting: leave one of them out")
                labels[setting] = variant.label
                command = [*script_command(task.script), *given]
                run = Planned(name, folder / name, task, variant, command, args)
                runs.append((place, run))
    return [run for _, run in sorted(runs, key=lambda item: item[0])]


def with_evaluations(
    runs: Sequence[Planned], sets: Mapping[str, Sequence[OtherSet]], flags: list[str]
) -> list[Planned]:
    """The runs, each followed by the evaluations of its last checkpoint.

    Args:
        sets: training task -> the sets that its models are scored on.
        flags: passed to every evaluation.

    Raises:
        InputError: two sets would have the same folder, or the script does not accept the flags.
    """
    planned = []
    for run in runs:
        planned.append(run)
        others = sets.get(run.task.name, ())
        labels = [other.label for other in others]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise InputError(
                f"--eval_file: two sets of {run.task.name} would have the folder {twice[0]}: rename a file"
            )
        for other in others:
            folder = run.folder / other.label
            file_flag = "--dev_file" if run.task.own else "--eval_file"
            length = run.args["max_seq_length"]
            given = [] if isinstance(length, Default) else ["--max_seq_length", str(length)]
            scored = (file_flag, other.file) if other.file else ("--eval_on", "test")
            given = ["--do_eval", *given, *flags, "--task_name", other.task, *scored]  # the last of two flags counts
            # A flag of the grid that an evaluation cannot take must not be found out after the training.
            parsed(run.task, [*given, "--output_dir", str(folder), "--test_model_file", os.devnull])
            command = [*script_command(run.task.script), *given, "--output_dir", str(folder)]
            name = f"{run.name}/{other.label}"
            planned.append(
                Planned(name, folder, run.task, run.variant, command, run.args, needs=run, scored=other.file)
            )
    return planned


@dataclass(frozen=True, kw_only=True)
class OwnRecipe(Recipe):
    """The recipe for the user's own data: only its location. All else is the script's default, or given to the grid.

    given: argument of the script -> its value.
    """

    given: Mapping[str, str | float]

    def settings(self) -> dict[str, str | float]:
        return dict(self.given)

    def source(self, name: str) -> str:
        return "own data"


def folder_task(folder: str) -> Task:
    """The task of a folder with train.* and optionally dev.* and test.*; its script is guessed from its columns.

    Raises:
        InputError: it has no training file, or the file cannot be read.
    """
    files = own_sets.split_files(Path(folder), FILES_OF_TASKS)
    if "train" not in files:
        raise InputError(f"--tasks {folder}: it has no training file, train.csv or the like")
    script = columns.script_of(files["train"])
    data = {"dataset_name": folder, "dataset_config_name": None, "task_name": None}
    name = own.task_name(argparse.Namespace(**data))
    given = {"dataset_name": folder} | ({} if "dev" in files else {"dev_fraction": own_flags.DEV_FRACTION})
    recipe = OwnRecipe(train_examples=columns.count_rows(files["train"], script), given=given)
    kind = next(type(task) for task in TASKS.values() if task.script == script)
    texts = {"text": (), "label": ()} if kind is SentenceTask else {}
    return kind(name=name, metrics=(), train=None, dev={}, test={}, own=True, recipe=recipe, **texts)


def script_command(script: str) -> list[str]:
    return [sys.executable, os.path.relpath(ROOT / f"{script}.py")]


def results_of(run: Planned) -> dict | None:
    """The results file of a run; None if there is none yet.

    Raises:
        InputError: it is from other settings, or cannot be read.
    """
    path = run.folder / "results.json"
    if not path.exists():
        return None
    results = read_run(path)
    try:
        moved = _encoder(results["args"], run) if is_finished(results) else {}  # a run cut off does not resume with it
        different = different_settings(results, run.args | moved | _lowered(results["args"], run))
    except (KeyError, TypeError, IndexError):
        raise InputError(f"{path}: not the results file of a run") from None
    if different:
        raise InputError(
            f"{run.folder}: it has a run of another setting ({different}): give another --output_dir, or move it away"
        )
    return results


def _encoder(recorded: dict, run: Planned) -> dict:
    """The recorded path of the encoder, if it is the one that this grid has trained further, before the grid moved."""
    path = recorded["load_model_path"]
    of_grid = run.after is not None and Path(path).parts[-3:] == Path(run.args["load_model_path"]).parts[-3:]
    return {"load_model_path": path} if of_grid else {}


def _lowered(recorded: dict, run: Planned) -> dict:
    """The recorded values of defaults that the run has lowered for its encoder."""
    given = {name: value for name, value in run.args.items() if isinstance(value, Default)}
    return {name: recorded[name] for name, value in given.items() if recorded[name] < value}


def state(run: Planned) -> str:
    """The status of a run: `finished`, `cut off` or `new`.

    Raises:
        InputError: its folder has the results of other settings, another file or another encoder.
    """
    if run.needs:
        path = run.folder / "evaluation.json"
        if not path.exists() or state(run.needs) == "new":  # the scores are from other weights
            return "new"
        args = read_run(path)["args"]
        scored = args.get("eval_file") or next(iter(args.get("dev_file") or ()), None)
        if Path(scored or "").name != Path(run.scored).name:  # wherever they are
            raise InputError(f"{run.folder}: it has the scores of {scored or 'a test set'}: move it away")
        return "finished"
    results = results_of(run)
    if results and run.after and not _is_of(results, run.after):
        raise InputError(
            f"{run.folder}: it was fine-tuned from a {run.after.folder / 'best'} that is gone: move all folders"
            f" {run.variant.label} away"
        )
    return "new" if results is None else "finished" if is_finished(results) else "cut off"


def _is_of(results: dict, before: Planned) -> bool:
    """Whether a fine-tuning run began with the present encoder; older results do not record their encoder."""
    if state(before) != "finished":
        return False
    weights, recorded = before.folder / "best" / "model.safetensors", results.get("encoder_sha256")
    return recorded is None or not weights.is_file() or recorded == _sha256(weights, weights.stat().st_mtime_ns)


@functools.cache
def _sha256(path: Path, changed: int) -> str:
    """The sha256 of a file, cached by its modification time: a grid asks for the same one many times."""
    return file_sha256(path)


def command_of(run: Planned) -> list[str]:
    """The command to start now: the run, its continuation, or an evaluation of the existing checkpoint."""
    if run.needs is None:
        return run.command + ["--resume"] * (state(run) == "cut off")
    cut_off = any((run.folder / "predictions").glob("*"))  # an evaluation writes these before its scores
    return [*run.command, "--test_model_file", str(last_checkpoint(run.needs))] + ["--overwrite_output_dir"] * cut_off


def last_checkpoint(run: Planned) -> Path:
    """The weights after a run's last epoch: the last recorded epoch, or the last planned one if none is recorded."""
    epochs = (results_of(run) or {}).get("epochs")
    last = epochs[-1]["epoch"] if epochs else math.ceil(run.steps / run.steps_per_epoch) - 1
    return run.folder / f"{last}_pytorch_model.bin"


def check_evaluations(runs: Sequence[Planned]) -> None:
    """Raise `InputError` if an evaluation still needs the weights of a finished training, and they are gone."""
    for run in runs:
        if run.needs and state(run) == "new" and state(run.needs) == "finished":
            path = last_checkpoint(run.needs)
            if not path.exists():
                raise InputError(
                    f"{path}: {run.name} needs it, and it is gone: move {path.parent} away to train it again"
                )

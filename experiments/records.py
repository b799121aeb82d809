"""The records of runs: which are finished, which have the same settings, and their scores."""

import functools
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.own import recorded_task
from data.own_flags import own_data
from data.predictions import file_name
from data.task_kinds import Task
from models.methods import METHODS, unused_flags
from training import arguments
from training.arguments import execution
from training.saved_settings import OF_MODEL, as_now
from utils import InputError, counted, log, short

PLAN = "grid.json"  # in a grid's folder: its planned runs
# Beside `execution`, arguments for how a run computes, not what. Gradient accumulation and checkpointing give the same
# gradients except for random draws (and except for accumulation in a regression under the release's protocol, and for
# the adversaries under a row budget).
HOW = {
    *("do_train", "do_eval", "test_model_file", "eval_file", "eval_masks"),
    *("no_cuda", "attn_implementation", "model_type", "fsdp"),
    *("gradient_accumulation_steps", "gradient_checkpointing"),
}
# Arguments that distinguish runs of one setting, or are recorded otherwise: the actual precision depends on the device.
IDENTITY = {"seed", "method", "fp16", "bf16"}
# What reading a file raises that is JSON, but not of a run.
MALFORMED = (KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError)


def parsed(task: Task, argv: Sequence[str]) -> dict:
    """The parsed arguments of the task's script."""
    return vars(arguments.of_script(task.script, argv))


def task_of(args: dict) -> Task:
    """The task of recorded arguments.

    Raises:
        KeyError: there is no task of that name.
    """
    task = recorded_task(args)
    if task is None:
        raise KeyError(args["task_name"])
    return task


def defaults(task: Task, protocol: str) -> dict:
    """The default arguments of a task's script."""
    data = "--train_file" if task.own else "--task_name"  # the name alone does not identify the user's own data
    return _defaults(task.script, data, task.name, protocol)


@functools.cache
def _defaults(script: str, *data_and_protocol: str) -> dict:
    data, name, protocol = data_and_protocol
    return vars(arguments.of_script(script, ["--do_train", data, name, "--protocol", protocol])) | {"train_file": None}


def settings(args: dict) -> tuple[dict, dict]:
    """Everything that decides a run's result except the seed: the training arguments, and those of its method.

    An argument that the run's script did not have yet counts as its default; arguments of other methods do not count.
    """
    args = as_now(args)
    args = defaults(task_of(args), args["protocol"]) | args | own_data(args)
    unread = {"num_train_epochs"} if args["max_train_steps"] else set()
    unread |= execution(args) | HOW | IDENTITY | unused_flags(args["method"])
    own = METHODS[args["method"]].flags.keys() - {"protocol"}  # it also decides how data are padded
    read = {name: value for name, value in args.items() if name not in unread}
    of_method = {name: value for name, value in read.items() if name in own}
    return {name: value for name, value in read.items() if name not in own}, of_method


def changes(args: dict) -> tuple[dict, dict]:
    """Like `settings`, without published values and a method's defaults."""
    task = task_of(args)
    usual = defaults(task, as_now(args)["protocol"]) | (task.recipe.settings() if task.recipe else {})
    usual |= {name: args.get(name) for name in ("task_name", "load_model_path")} | {"protocol": "corrected"}

    def changed(part: dict) -> dict:
        return {name: value for name, value in part.items() if value != usual.get(name)}

    training, own = settings(args)
    return changed(training), changed(own)


def different_settings(run: dict, args: dict) -> str:
    """How a run's arguments differ from the planned ones; empty if they do not."""

    def compared(args: dict) -> dict:
        training, own = settings(args)
        return training | own | {name: args.get(name, False) for name in IDENTITY}

    have, want = compared(run["args"]), compared(args)
    names = sorted(name for name in have.keys() & want.keys() if have[name] != want[name])
    return ", ".join(f"{name} {have[name]}, not {want[name]}" for name in names)


@dataclass(frozen=True)
class Result:
    """The scores of a finished run, or of its last checkpoint on another set.

    precision: that of the training.
    name: its folder below the reported folder.
    folder: its folder; for an evaluation, that of the run.
    args: the arguments of the training.
    training, own: everything that decides the result except the seed, as in `settings`.
    examples: split -> number of examples.
    scored_on: "dev" or "test", or the name of another set.
    masks: the masks it was scored under, in words; empty for none.
    same_rows: whether it was scored on the rows of the training's own evaluation.
    held_out: whether these are rows held out of the training set, other ones with each seed.
    metric: the name of the score.
    last: the score after the last epoch, in per cent.
    best: the score of the best epoch, which is chosen by this same score, or by the loss in masked language modelling;
        None for an evaluation on another set.
    metrics: all scores after the last epoch.
    step_seconds: seconds per training step, one number per epoch.
    minutes: how long all training steps took.
    predictions: the predictions file, which may not exist.
    code: the known versions of this project that the training used, in order.
    """

    name: str
    folder: Path
    args: dict
    training: dict
    own: dict
    precision: str
    examples: dict[str, int]
    scored_on: str
    metric: str
    last: float
    best: float | None
    metrics: dict[str, float]
    step_seconds: tuple[float, ...]
    minutes: float
    code: tuple[str, ...]
    predictions: Path
    masks: str = ""
    same_rows: bool = True
    held_out: bool = False


def read_runs(folder: Path) -> dict[str, dict]:
    """Path below the folder -> content of the results file, for all runs, finished or not.

    Raises:
        InputError: a results file cannot be read.
    """
    return {path.parent.relative_to(folder).as_posix(): read_run(path) for path in _found(folder, "results.json")}


def _found(folder: Path, name: str) -> list[Path]:
    """The files with this name in a folder and below it."""
    # Unlike rglob, walk ignores folders that vanish, as those of active runs do.
    return sorted(Path(path, name) for path, _, files in os.walk(folder) if name in files)


def read_run(path: Path) -> dict:
    """Read the results file of a run or of an evaluation.

    Raises:
        InputError: it cannot be read.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(run["args"], dict) and ("epochs" not in run or isinstance(run["epochs"], list)):
            return run
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: not the results file of a run")


def read_metrics(path: Path) -> list[dict]:
    """The records of a metrics.jsonl, in order. The last line may be incomplete, as a stopped run leaves it.

    Raises:
        InputError: another line is not a record.
    """
    records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records.append({**record, "step": int(record["step"])})
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise InputError(f"{path}, line {number}: not a record of a training step") from None
            log.warning(f"{path}, line {number}: cut short, left out")
    return records


def is_finished(run: dict) -> bool:
    """Whether a run is complete; results from before runs could be resumed show this only by their last epoch."""
    if "resume" in run["args"] or not run["epochs"]:
        return bool(run.get("finished"))
    last, args = run["epochs"][-1], run["args"]
    if args["max_train_steps"]:
        return last["global_step"] >= args["max_train_steps"]
    return last["epoch"] + 1 >= args["num_train_epochs"]


def read_results(folder: Path) -> list[Result]:
    """The scores of the finished runs below a folder, each followed by those of its last checkpoint on other sets.

    The evaluations of a run are in subfolders of its folder. Evaluations of other checkpoints are ignored.

    Raises:
        InputError: there is no such folder, or a file cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: {'a file, not a folder' if folder.exists() else 'no such folder'}")
    results = []
    for name, run in read_runs(folder).items():
        try:
            if not is_finished(run):
                continue
            if run["epochs"][-1]["eval_score"] is not None:
                results.append(_of_run(folder, name, run))
            last = f"{run['epochs'][-1]['epoch']}_pytorch_model.bin"
        except MALFORMED:
            raise InputError(f"{folder / name / 'results.json'}: not the results file of a run") from None
        for path in sorted((folder / name).glob("*/evaluation.json")):
            evaluation = read_run(path)
            try:
                if _is_of(evaluation["args"]["test_model_file"], folder / name / last):
                    results.append(_of_evaluation(folder, path.parent.relative_to(folder).as_posix(), run, evaluation))
            except MALFORMED:
                raise InputError(f"{path}: not the results file of an evaluation") from None
    return results


def _of_run(folder: Path, name: str, run: dict) -> Result:
    epochs, args = run["epochs"], run["args"]
    steps = [after - before for before, after in zip([0, *_steps(epochs)], _steps(epochs), strict=False)]
    flags = "fp16" if args.get("fp16") else "bf16" if args.get("bf16") else "fp32"
    training, own = settings(args)
    score = epochs[-1]["eval_score"]
    _check_numbers(args["seed"], *([] if score is None else [score]))
    return Result(
        name=name,
        folder=folder / name,
        args=args,
        training=training,
        own=own,
        precision=run.get("precision", flags),
        examples={split: run["examples"].get(split) for split in ("train", "eval")},
        scored_on=args["eval_on"],
        metric=next(iter(epochs[-1]["metrics"]), ""),
        last=score,
        best=run["best"] and run["best"]["eval_score"],
        metrics=epochs[-1]["metrics"],
        step_seconds=tuple(epoch["seconds"] / count for epoch, count in zip(epochs, steps, strict=True)),
        minutes=sum(epoch["seconds"] for epoch in epochs) / 60,
        code=_code(run),
        predictions=_predictions(folder / name, args),
        held_out=_is_held_out(args),
    )


def _is_of(scored: str, checkpoint: Path) -> bool:
    """Whether an evaluation's recorded checkpoint is this one, which may have been copied, moved or removed since."""
    path = Path(scored)
    if path.name != checkpoint.name:
        return False
    return not path.exists() or path.resolve().parts[-3:] == checkpoint.resolve().parts[-3:]


def _is_held_out(args: dict) -> bool:
    return bool(args.get("dev_fraction")) and args["eval_on"] == "dev" and not _scored_files(args)


def _check_numbers(*values) -> None:
    """Raise `TypeError` if a value is not a finite number."""
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise TypeError("a number is expected")


def _code(run: dict) -> tuple[str, ...]:
    """The code versions of a run's segments; in older results, that of the process that ended the run."""
    # A segment without versions was run with unknown code.
    versions = [segment["versions"] or {"code": "unknown"} for segment in run.get("segments", [])]
    versions = versions or [run.get("versions", {})]
    return tuple(dict.fromkeys(known["code"] for known in versions if known.get("code")))


def _steps(epochs: list[dict]) -> list[int]:
    return [epoch["global_step"] for epoch in epochs]


def _predictions(folder: Path, args: dict) -> Path:
    """The predictions file of the primary set; runs of older code have none."""
    primary = args.get("eval_file") or next(iter(getattr(task_of(args), args["eval_on"])))
    return folder / "predictions" / file_name(primary)


def _of_evaluation(folder: Path, name: str, run: dict, evaluation: dict) -> Result:
    args = evaluation["args"]
    given = (_scored_files(args) or [args["eval_on"]])[0]
    masks = _masks(args, args["eval_masks"]) if args.get("eval_masks") else ""
    if masks:
        given += f" under {masks}"
    read, trained_on = map(as_now, (args, run["args"]))
    of_model = (flag for flag in OF_MODEL if _differs(read, trained_on, flag))
    trained = vars(_of_run(folder, name, run))
    precision = evaluation.get("precision", trained["precision"])
    given = ", ".join(
        [given, *(f"{flag} {short(read[flag])}" for flag in of_model)]
        + [f"in {precision}"] * (precision != trained["precision"])
    )
    _check_numbers(evaluation["eval_score"])
    return Result(
        **trained
        | {
            "examples": {"train": trained["examples"]["train"], "eval": evaluation["examples"]["eval"]},
            "scored_on": f"{args['task_name']} {given}",
            "metric": next(iter(evaluation["metrics"])),
            "last": evaluation["eval_score"],
            "predictions": _predictions(folder / name, args),
            "best": None,
            "metrics": evaluation["metrics"],
            "masks": masks,
            "same_rows": _rows_of(args) == _rows_of(run["args"]),
            "held_out": _is_held_out(args),
        }
    )


def _differs(args: dict, trained: dict, flag: str) -> bool:
    return flag in args and flag in trained and args[flag] != trained[flag]


def _scored_files(args: dict) -> list[str]:
    """The names of the user's own files that are scored, the one for the score first."""
    files = [args["eval_file"]] if args.get("eval_file") else args.get(f"{args['eval_on']}_file") or []
    return [Path(file).name for file in files]


def _rows_of(args: dict) -> tuple:
    """Which rows are scored; files and data sets are identified by name only."""
    return args["task_name"], args["eval_on"], _scored_files(args), own_data(args, ())


def _masks(args: dict, masks: str) -> str:
    """The masks that an evaluation was made under, in words."""
    shares = {"asa_budget": ["asa_budget"], "random_mask": ["random_mask_budget", "random_mask_keep_rate"]}
    given = [flag for flag in shares.get(args["method"], ()) if args.get(flag) is not None][:1]
    given += ["asa_layers"] if args.get("asa_layers") else []
    rule = ", ".join(f"{flag} {short(args[flag])}" for flag in given)
    own = Path(masks).parent == Path(args["test_model_file"]).parent
    whose = "random masks" if masks == "random" else f"{'its own' if own else 'other'} adversaries"
    return f"{whose} ({rule})" if rule else whose


def read_plan(path: Path) -> dict[str, dict]:
    """The planned runs of a grid, by their folders below its own.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["runs"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not the plan of a grid") from None


def missing(folder: Path) -> dict[str, str]:
    """Unfinished runs, planned or begun below a folder -> what they lack."""
    runs = read_runs(folder)
    lacking = {name: _progress(run) for name, run in runs.items() if not is_finished(run)}
    for plan in _found(folder, PLAN):
        for name in read_plan(plan):
            place = (plan.parent / name).relative_to(folder).as_posix()
            if place not in runs and not (folder / place / "evaluation.json").exists():
                lacking[place] = "not begun, or failed before the first step"
    return dict(sorted(lacking.items(), key=lambda item: natural(item[0])))


def _progress(run: dict) -> str:
    return f"not finished, {counted(len(run['epochs']), 'epoch')} done"


def natural(text: str) -> list[str | int]:
    """A key that sorts seed9 before seed10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]

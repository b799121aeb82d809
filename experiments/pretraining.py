"""Continued pre-training: an encoder is trained further on text with each method, then fine-tuned plainly on tasks.

The reference is the original encoder, fine-tuned in the same way.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from data import own
from data.own_text import text_task
from data.task_kinds import Task
from data.tasks import TASKS
from data.text import TextTask
from experiments import plan
from experiments.groups import Group, grouped, joined, listed
from experiments.paired import compare, over_rows, over_seeds
from experiments.plan import OwnRecipe, Planned, Variant
from experiments.records import Result, changes, parsed, read_run
from experiments.tables import difference_text, marked, score_text, table_text
from models.methods import METHODS
from utils import InputError

FOLDER = "pretraining"  # below the grid's folder: one run per method
AS_IT_WAS = "not at all"
TITLE = "Continued pre-training"
ABOUT = """\
The encoder is trained further by masked language modelling, with each method for the same number of steps. Of each run,
the epoch with the lowest held-out loss is then fine-tuned plainly. Loss, perplexity and accuracy (in per cent) are
measured on the masked words of the held-out text, which are the same for all methods. *Difference* compares the scores
after the last epoch of fine-tuning, paired by its seed. Each method has one pre-training run, so the intervals do not
cover the variance of pre-training."""


def plan_runs(
    folder: Path,
    args: argparse.Namespace,
    tasks: Sequence[Task],
    variants: Sequence[Variant],
    shared: list[str],
    fine_tuning: list[str],
    extra: list[str],
) -> list[Planned]:
    """The pre-training runs, followed by the fine-tuning of the original encoder and of each pre-trained one.

    Args:
        variants: the methods of pre-training.
        shared, fine_tuning, extra: flags for every run, for fine-tuning, and for pre-training.

    Raises:
        InputError: the text cannot be used, or a script does not accept the flags.
    """
    text_name = own.task_name(argparse.Namespace(task_name=None, dataset_name=None, train_file=args.train_file))
    recipe = OwnRecipe(train_examples=0, given={"max_train_steps": args.steps})
    text = ["--task_name", text_name, "--train_file", *args.train_file, "--dev_file", *args.dev_file]
    runs = []
    for variant in variants:
        name = f"{FOLDER}/{variant.label}"
        given = ["--do_train", "--do_eval", *text, "--max_train_steps", str(args.steps), *shared]
        given += ["--method", variant.method, *variant.flags, "--load_model_path", args.encoder, *extra]
        given += ["--output_dir", str(folder / name)]
        task = TextTask(name=text_name, train=None, dev={}, test={}, recipe=recipe)
        run = Planned(name, folder / name, task, variant, [], parsed(task, given))
        run.command = [*plan.script_command(task.script), *given]
        runs.append(run)
    before = {f"after-{run.variant.label}": run for run in runs}
    arms = [Variant("naive", "naive", ("--load_model_path", args.encoder))]
    for label, run in before.items():
        arms.append(Variant(label, "naive", ("--load_model_path", (run.folder / "best").as_posix())))
    fine_tuned = plan.plan_runs(folder, tasks, arms, args.seeds, [*shared, *fine_tuning])
    for run in fine_tuned:
        run.after = before.get(run.variant.label)
    return [*runs, *fine_tuned]


def check_text(run: Planned) -> None:
    """Raise `InputError` if the text of a pre-training run cannot be used."""
    text_task(argparse.Namespace(**run.args))


def apart(results: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    """Split results into those of pre-training and the fine-tuning after it, and all others.

    Fine-tuning after it is what the grid itself runs: plain fine-tuning in a folder TASK/after-METHOD/SEED. Anything
    else that begins with such an encoder is among the others, and so are a fine-tuned model's scores on another set.
    There is no table for scores on another text.
    """
    further: list[Result] = []
    others: list[Result] = []
    for result in results:
        of_text, evaluation = _is_of_text(result), result.best is None
        if of_text and evaluation:
            continue
        (further if not evaluation and (of_text or trained_by(result)) else others).append(result)
    return further, others


def _is_of_text(result: Result) -> bool:
    return "mlm_probability" in result.args


def trained_by(result: Result) -> str | None:
    """The name of the pre-training run after which the grid fine-tuned an encoder; None if it is not such a run."""
    *_, folder, label, best = ("", "", "", *Path(result.args["load_model_path"]).parts)
    place = result.name.split("/")[-2:-1]
    of_grid = result.args["method"] == "naive" and place == [f"after-{label}"]
    return label if of_grid and (folder, best) == (FOLDER, "best") else None


def section(further: Sequence[Result], others: Sequence[Result], times: bool = True) -> tuple[str, list[dict]]:
    """The tables, as Markdown, and their rows for the results from `apart`; empty if there are none.

    Args:
        times: include how long pre-training took.

    Raises:
        InputError: runs of one row have the same seed, or began with different encoders; or a file cannot be read.
    """
    if not further:
        return "", []
    trained = [result for result in further if _is_of_text(result)]
    trained.sort(key=lambda result: (_grid(result), *_place(_label(result))))
    rows = [_text_row(result) for result in trained]
    tuned = []
    for grid in sorted({_grid(result) for result in further}):
        encoders = {result.args["load_model_path"] for result in trained if _grid(result) == grid}
        plain = [result for result in others if result.args["method"] == "naive" and result.best is not None]
        compared = [result for result in plain if result.args["load_model_path"] in encoders]
        compared += [_in_grid(result) for result in further if result not in trained and _grid(result) == grid]
        of_grid = {"grid": grid or ".", "encoder": ", ".join(sorted(encoders)) or "unknown"}
        tuned += [row | of_grid for row in _task_rows(grouped(compared))]
    left_out = {"grid"} if len({row["grid"] for row in rows + tuned}) == 1 else set()
    left_out |= set() if times else {"minutes"}
    tables = [_table(members, columns, left_out) for members, columns in ((rows, TEXT_COLUMNS), (tuned, TASK_COLUMNS))]
    return "\n\n".join((f"## {TITLE}", ABOUT, *filter(None, tables))), rows + tuned


def _in_grid(result: Result) -> Result:
    """A fine-tuned result with its encoder's place in the grid, which may have been moved between the seeds."""
    encoder = {"load_model_path": "/".join(Path(result.args["load_model_path"]).parts[-3:])}
    return dataclasses.replace(result, args=result.args | encoder, training=result.training | encoder)


def _grid(result: Result) -> str:
    """The folder of the grid that a pre-training run, or a fine-tuning run after it, belongs to."""
    below = 2 if _is_of_text(result) else 3  # pretraining/METHOD, TASK/after-METHOD/SEED
    return "/".join(result.name.split("/")[:-below])


def _label(result: Result) -> str:
    """The name of a pre-training run: that of its folder."""
    return result.folder.resolve().name


def _task_rows(groups: Sequence[Group]) -> list[dict]:
    """The rows of one grid's fine-tuning: task by task, the original encoder first.

    Raises:
        InputError: runs of one row began with different encoders.
    """
    alike: dict[str, dict[str, Group]] = {}  # settings that all arms share -> arm -> its runs
    for group in groups:
        arms, arm = alike.setdefault(_shared(group), {}), trained_by(group.first) or AS_IT_WAS
        runs = [*group.results.values(), *(arms[arm].results.values() if arm in arms else ())]
        weights = {read_run(run.folder / "results.json").get("encoder_sha256") for run in runs} - {None}
        if arm in arms or len(weights) > 1:
            raise InputError(
                f"{' and '.join(run.name for run in runs)}: not of the same encoder; move those of one encoder away"
            )
        arms[arm] = group

    def place(arms: dict[str, Group]) -> int:
        task = next(iter(arms.values())).task
        return (*TASKS, task).index(task)

    return [
        _task_row(arm, arms[arm], arms)
        for arms in sorted(alike.values(), key=place)
        for arm in sorted(arms, key=_place)
        if arms.keys() != {AS_IT_WAS}
    ]


def _place(arm: str) -> tuple[int, str]:
    """The sort key of an arm: the original encoder, then the methods, each before its rows with other settings."""
    order = [AS_IT_WAS, *METHODS]
    name = arm if arm in order else arm.partition("-")[0]
    return (order.index(name) if name in order else len(order)), arm


def _shared(group: Group) -> str:
    first = group.first
    training = {name: value for name, value in first.training.items() if name != "load_model_path"}
    return json.dumps(
        [training, group.method, first.precision, first.scored_on, first.metric, first.examples], sort_keys=True
    )


def _text_row(result: Result) -> dict:
    best = read_run(result.folder / "results.json")["best"]
    training, own = changes(result.args)
    return {
        "table": FOLDER,
        "grid": _grid(result) or ".",
        "encoder": result.args["load_model_path"],
        "task": result.args["task_name"],
        "method": _label(result),
        "method_settings": listed(own),
        "settings": joined(result.precision, listed(training)),
        "steps": best["global_step"],
        "loss": best["eval_loss"],
        **best["metrics"],
        "minutes": result.minutes,
        "runs": [result.name],
        "code": list(result.code),
    }


def _task_row(arm: str, group: Group, arms: dict[str, Group]) -> dict:
    scores = group.scores("last")
    row = {
        "table": FOLDER,
        "task": group.task,
        "scored_on": group.first.scored_on,
        "examples": group.first.examples["eval"],
        "metric": group.first.metric,
        "method": arm,
        "settings": group.settings,
        "n": len(group.results),
        "seeds": list(group.results),
        **{f"last_{name}": value for name, value in over_seeds(scores).items()},
        "runs": [result.name for result in group.results.values()],
        "code": sorted({code for result in group.results.values() for code in result.code}),
    }
    for name, other in (("untrained", AS_IT_WAS), ("plain", "naive")):
        if other in arms and arm not in (AS_IT_WAS, other):
            row |= {f"{name}_{key}": value for key, value in compare(scores, arms[other].scores("last")).items()}
            found = over_rows(group, arms[other]) or {}
            row |= {f"{name}_rows_{key}": value for key, value in found.items()}
    return row


TEXT_COLUMNS: dict[str, Callable[[dict], object]] = {
    "grid": lambda row: row["grid"],
    "encoder": lambda row: row["encoder"],
    "text": lambda row: row["task"],
    "trained further by": lambda row: joined(row["method"], row["method_settings"]),
    "settings": lambda row: row["settings"],
    "steps": lambda row: marked(row, row["steps"]),
    "held-out loss": lambda row: f"{row['loss']:.4f}",
    "perplexity": lambda row: f"{row['perplexity']:.3f}",
    "accuracy": lambda row: f"{row['accuracy']:.2f}",
    "minutes": lambda row: f"{row['minutes']:.1f}",
}
TASK_COLUMNS: dict[str, Callable[[dict], object]] = {
    "grid": lambda row: row["grid"],
    "encoder": lambda row: row["encoder"],
    "task": lambda row: row["task"],
    "scored on": lambda row: f"{row['scored_on']}, {row['examples']:,}",
    "metric": lambda row: row["metric"].replace("_", " "),
    "trained further by": lambda row: row["method"],
    "settings": lambda row: row["settings"],
    "n": lambda row: marked(row, row["n"]),
    "last epoch": lambda row: score_text(row, "last"),
    "difference from the original encoder": lambda row: _difference(row, "untrained"),
    "difference from plain pre-training": lambda row: _difference(row, "plain"),
}


def _difference(row: dict, name: str) -> str:
    return difference_text(row, name) if f"{name}_pairs" in row else ""


def _table(rows: Sequence[dict], columns: dict[str, Callable[[dict], object]], left_out: set[str]) -> str:
    shown = {name: cell for name, cell in columns.items() if name not in left_out}
    return table_text(shown, rows) if rows else ""

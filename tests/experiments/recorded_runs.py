"""Results files as the scripts leave them, and the tables that the report makes of them, for the tests."""

import json
import re
from pathlib import Path

from data.tasks import TASKS
from experiments.records import missing, parsed, read_results
from experiments.tables import report


def write_run(folder: Path, method: str, seed: int, scores: list[float], minutes: float = 1.0, **changes) -> Path:
    """A finished run as the scripts leave it, of ten steps an epoch."""
    task = TASKS[changes.get("task_name", "SST-2")]
    recipe = [f"--{name}={value}" for name, value in task.recipe.settings().items()]
    name = changes.pop("name", f"{method}{seed}")
    finished = changes.pop("finished", True)
    args = parsed(task, ["--do_train", "--do_eval", "--task_name", task.name, "--method", method, *recipe])
    args |= {"seed": seed, "output_dir": name, "bf16": True, **changes}
    epochs = [
        {"epoch": place, "eval_score": score, "metrics": {"accuracy": score}, "global_step": 10 * place + 10}
        | {"seconds": 60 * minutes}
        for place, score in enumerate(scores)
    ]
    best = max(epochs, key=lambda epoch: epoch["eval_score"], default=None)
    run = {"args": args, "precision": "bf16", "examples": {"train": 100, "eval": 1872}, "epochs": epochs, "best": best}
    (folder / name).mkdir(parents=True)
    (folder / name / "results.json").write_text(json.dumps(run | ({"finished": True} if finished else {})))
    return folder / name


def table(folder: Path, title: str) -> list[dict[str, str]]:
    """The rows of a table of the report: column -> cell, with what is said of all rows above the table."""
    text = report(folder, read_results(folder), missing(folder))
    section = text.partition(f"## {title}\n\n")[2].partition("\n## ")[0]
    said = re.search(r"^All rows: (.*)\.$", section, re.M)
    alike = dict(part.split(" ", 1) for part in said[1].split("; ")) if said else {}
    head, _, *rows = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [alike | dict(zip(head, row, strict=True)) for row in rows]


def column(folder: Path, title: str, *names: str) -> list:
    """The cells of a column; of several columns, a tuple for each row."""
    found = [tuple(row[name] for name in names) for row in table(folder, title)]
    return [cell for (cell,) in found] if len(names) == 1 else found

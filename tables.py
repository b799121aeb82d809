"""Tables from the results files of runs."""

import functools
import importlib
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.tasks import TASKS, Task
from utils import InputError

# Arguments that change where and how fast a run computes, and not what.
EXECUTION = {
    *("output_dir", "overwrite_output_dir", "resume", "data_dir", "cache_dir", "token_cache_dir", "num_workers"),
    *("do_train", "do_eval", "do_test", "test_model_file", "eval_batch_size", "logging_steps", "report_to"),
    *("no_cuda", "attn_implementation", "gradient_checkpointing", "model_type"),
}
METHODS = ("asa", "rdrop", "random_mask", "freelb", "smart", "r3f")


def parsed(task: Task, argv: Sequence[str]) -> dict:
    """What the task's script makes of arguments."""
    # Imported only here: PyTorch takes seconds.
    return vars(importlib.import_module(task.script).parse_arguments(argv))


@functools.cache
def _defaults(task: str, protocol: str) -> dict:
    return parsed(TASKS[task], ["--do_train", "--task_name", task, "--protocol", protocol])


def settings(args: dict) -> tuple[dict, dict]:
    """What decides the result of a run but its seed: the arguments of the training, and those of its method.

    An argument that the run's script did not have yet counts as its default; those of other methods do not count.
    """
    args = _defaults(args["task_name"], args.get("protocol", "paper")) | args
    if args.get("max_train_steps"):
        args["num_train_epochs"] = None
    method = args["method"]
    used = {name: value for name, value in args.items() if name not in EXECUTION | {"seed", "method", "fp16", "bf16"}}
    training = {name: value for name, value in used.items() if _method_of(name) is None}
    return training, {name: value for name, value in used.items() if _method_of(name) == method}


def _method_of(argument: str) -> str | None:
    """The method that an argument belongs to."""
    if argument == "tau":
        return "asa"
    return next((method for method in METHODS if argument.startswith(f"{method}_")), None)


def different_settings(run: dict, args: dict) -> str:
    """How a run's arguments differ from others of the same task, method and seed; empty where they do not."""
    precision = [{name: given.get(name, False) for name in ("fp16", "bf16")} for given in (run["args"], args)]
    ours, theirs = ({**settings(args)[0], **settings(args)[1]} for args in (run["args"], args))
    pairs = [
        (ours, theirs),
        precision,
        [{name: given[name] for name in ("method", "seed")} for given in (run["args"], args)],
    ]
    return ", ".join(
        f"{name} {have.get(name)}, not {want.get(name)}"
        for have, want in pairs
        for name in sorted({*have, *want})
        if have.get(name) != want.get(name)
    )


def read_results(folder: Path) -> list[tuple[str, dict]]:
    """The finished runs below a folder: (path below it, what its results file holds), in the order of the paths.

    Raises:
        InputError: a results file is not readable.
    """
    runs = []
    for path in sorted(Path(folder).rglob("results.json")):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            if is_finished(run):
                runs.append((path.parent.relative_to(folder).as_posix(), run))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: not the results file of a run") from None
    return runs


def is_finished(run: dict) -> bool:
    """Whether a run has gone to its end; older results files say so by their last epoch alone."""
    if "finished" in run or not run["epochs"]:
        return bool(run.get("finished"))
    last, args = run["epochs"][-1], run["args"]
    if args["max_train_steps"]:
        return last["global_step"] >= args["max_train_steps"]
    return last["epoch"] + 1 >= args["num_train_epochs"]


def report(found: list[tuple[str, dict]]) -> str:
    """A Markdown table with a row for each setting: scores after the last epoch and in the best one, over its seeds.

    The best epoch is chosen on the very set that it is scored on; the last epoch is not chosen at all.

    Raises:
        InputError: two runs of one setting have the same seed.
    """
    groups: dict[str, dict[int, dict]] = {}
    for _, run in found:
        key = [*settings(run["args"]), run["args"]["method"], run.get("precision")]
        seeds = groups.setdefault(json.dumps(key, sort_keys=True), {})
        other = seeds.setdefault(run["args"]["seed"], run)
        if other is not run:
            folders = f"{other['args']['output_dir']} and {run['args']['output_dir']}"
            raise InputError(f"two runs of one setting have the seed {run['args']['seed']}: {folders}")
    lines = [
        "| encoder | task | scored on | method | seeds | metric | last epoch | best epoch | training, minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in groups.values():
        seeds = list(setting.values())
        args = seeds[0]["args"]
        last = [run["epochs"][-1] for run in seeds]
        metric = next(iter(last[0]["metrics"]))
        minutes = [sum(epoch["seconds"] for epoch in run["epochs"]) / 60 for run in seeds]
        cells = (
            args["load_model_path"],
            args["task_name"],
            f"{args['eval_on']}, {seeds[0]['examples']['eval']:,}",
            args["method"],
            len(seeds),
            metric.replace("_", " "),
            over_seeds(record["eval_score"] for record in last),
            over_seeds(run["best"]["eval_score"] for run in seeds),
            f"{statistics.mean(minutes):.1f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def over_seeds(scores: Iterable[float]) -> str:
    """The mean, with the standard deviation where there are several."""
    scores = list(scores)
    mean = f"{statistics.mean(scores):.2f}"
    return mean if len(scores) == 1 else f"{mean} ± {statistics.stdev(scores):.2f}"

"""Tables from the results of runs.

python reproduce.py report results
"""

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from utils import InputError, Parser, run_script

# Runs that differ in nothing but these arguments are seeds of one setting.
NO_SETTING = {
    *("seed", "output_dir", "overwrite_output_dir", "data_dir", "cache_dir", "num_workers", "eval_batch_size"),
    *("do_train", "do_eval", "do_test", "eval_file", "logging_steps", "report_to", "no_cuda", "fp16", "bf16"),
}


def main() -> None:
    """Print the table that the arguments ask for."""
    args = parse_arguments()
    print(report(read_results(args.folder)))


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("report", help="a Markdown table of all runs below a folder")
    command.add_argument("folder", help="results.json files are looked for in it and below")
    return parser.parse_args()


def read_results(folder: str | Path) -> list[dict]:
    """The results files of evaluated runs below a folder, in the order of their paths.

    Raises:
        InputError: there are none, or one is not readable.
    """
    runs = []
    for path in sorted(Path(folder).rglob("results.json")):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            if run["epochs"] and run["best"]["eval_score"] is not None:
                runs.append(run)
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path}: not the results file of a run") from None
    if not runs:
        raise InputError(f"{folder}: no results.json of an evaluated run in it or below")
    return runs


def report(runs: list[dict]) -> str:
    """A Markdown table with a row for each setting: scores after the last epoch and in the best one, over its seeds.

    The best epoch is chosen on the very set that it is scored on; the last epoch is not chosen at all.

    Raises:
        InputError: two runs of one setting have the same seed.
    """
    settings: dict[str, dict[int, dict]] = {}
    for run in runs:
        arguments = {name: value for name, value in run["args"].items() if name not in NO_SETTING}
        seeds = settings.setdefault(json.dumps([arguments, run.get("precision")], sort_keys=True), {})
        other = seeds.setdefault(run["args"]["seed"], run)
        if other is not run:
            folders = f"{other['args']['output_dir']} and {run['args']['output_dir']}"
            raise InputError(f"two runs of one setting have the seed {run['args']['seed']}: {folders}")
    lines = [
        "| encoder | task | scored on | method | seeds | metric | last epoch | best epoch | training, minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for setting in settings.values():
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


if __name__ == "__main__":
    run_script(main)

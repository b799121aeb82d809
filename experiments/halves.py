"""The row budget against its control, without choosing on what is reported.

python -m experiments.halves runs/budget --output results/budget/halves.json

The rows of a task's evaluation set are cut in two by a fixed draw. On the first half the budget is chosen: the one with
the best mean over seeds after the last epoch. The second half is reported: the chosen budget against random masks that
hide as many keys of each row, and against every other method that was run beside them, paired by seed. Where only one
budget was run, nothing is chosen and all rows are reported; so are all rows of the other sets that the trained models
were scored on, with the budget that was chosen for the training. The scores come from the runs' predictions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.predictions import read_predictions
from experiments import bootstrap
from experiments.records import read_results
from experiments.tables import Group, compare, grouped, listed, over_seeds
from training.folder import versions
from utils import InputError, Parser, log, run_script, write_json

METHOD, BUDGET = "asa_budget", "asa_budget"
CONTROL, ITS_BUDGET = "random_mask", "random_mask_budget"


def main(argv: Sequence[str] | None = None) -> None:
    """Compare the runs below the folders that the arguments name, print a Markdown table, and write JSON.

    Raises:
        InputError: there is nothing to compare; nothing has been written then.
    """
    parser = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="of a grid, or any with runs in it")
    parser.add_argument("--output", help="a JSON file to write")
    args = parser.parse_args(argv)
    groups = grouped(result for folder in args.folders for result in read_results(Path(folder)))
    families: dict[str, list[Group]] = {}
    for group in sorted(groups, key=_is_other_set):  # on a training's own set its budget is chosen
        families.setdefault(group.base, []).append(group)
    found: list[dict] = []
    chosen: dict[str, float] = {}  # what a training is -> its budget
    for family in families.values():
        trained = json.dumps([family[0].first.training, family[0].first.precision])
        if _is_other_set(family[0]) and trained not in chosen:
            continue
        if record := of_family(family, groups, chosen.get(trained) if _is_other_set(family[0]) else None):
            found.append(record)
            chosen.setdefault(trained, record["budget"])
    if not found:
        raise InputError(f"{', '.join(args.folders)}: no runs of {METHOD} with predictions")
    print(markdown(found))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, {"args": {"folders": args.folders}, "versions": versions(), "sets": found})
        log.info(f"{len(found)} sets: {args.output}")


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows on which a budget is chosen, and those that are reported; always the same ones."""
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def _is_other_set(group: Group) -> bool:
    """Whether these are evaluations on another set than that of the training's own task, or under masks."""
    return group.first.best is None


def of_family(family: Sequence[Group], groups: Sequence[Group], given: float | None = None) -> dict | None:
    """What is chosen and reported of the methods of one encoder, task and setting; None without a row budget.

    Args:
        groups: all there are: plain fine-tuning for twice the epochs is of another setting.
        given: the budget, where it is chosen already.
    """
    budgets = {
        group.first.own[BUDGET]: group for group in family if group.method == METHOD and group.own.keys() <= {BUDGET}
    }
    read = {beta: found for beta, group in budgets.items() if (found := _read(group))}
    if not read or (given is not None and given not in read):
        return None
    first = budgets[min(read)]
    labels = next(iter(read.values()))[1]
    choosing, reporting, chosen_by = np.arange(0), np.arange(len(labels)), {}
    beta = given if given is not None else min(read)
    if given is None and len(read) > 1:
        choosing, reporting = halves(len(labels))
        chosen_by = {beta: over_seeds(scores(first.first.metric, found, choosing)) for beta, found in read.items()}
        beta = max(chosen_by, key=lambda beta: chosen_by[beta]["mean"])
    longer = [group for group in groups if group.base == first.base_of_twice_the_epochs and group.method == "naive"]
    others = [group for group in (*family, *longer) if group.method != METHOD]
    rows = []
    for group in others:
        control = group.method == CONTROL and group.first.own.get(ITS_BUDGET) is not None
        if (control and group.first.own[ITS_BUDGET] != beta) or (found := _read(group)) is None:
            continue
        rows.append(
            {"method": group.method, "settings": listed(group.own | group.training), "control": control}
            | against(first.first.metric, read[beta], found, reporting)
        )
    return {
        "encoder": first.first.args["load_model_path"],
        "task": first.task,
        "scored_on": first.first.scored_on,
        "metric": first.first.metric,
        "rows": {"choosing": len(choosing), "reporting": len(reporting)},
        "choosing": [{"budget": each, **figures} for each, figures in sorted(chosen_by.items())],
        "budget": beta,
        "reporting": over_seeds(scores(first.first.metric, read[beta], reporting)),
        "seeds": sorted(read[beta][0]),
        "against": sorted(rows, key=lambda row: not row["control"]),
    }


Predicted = tuple[dict[int, list], list]  # seed -> what the run predicted of each row, and the labels


def _read(group: Group) -> Predicted | None:
    """The predictions of the runs that keep them; None where none does."""
    files = {seed: each.predictions for seed, each in group.results.items() if each.predictions.exists()}
    columns = {seed: read_predictions(path) for seed, path in files.items()}
    if not columns:
        return None
    labels = next(iter(columns.values()))["label"]
    if any(each["label"] != labels for each in columns.values()):
        raise InputError(f"{next(iter(files.values()))}: its rows are not those of the other seeds")
    return {seed: bootstrap.predicted(each, group.first.metric) for seed, each in columns.items()}, labels


def scores(metric: str, found: Predicted, rows: np.ndarray) -> dict[int, float]:
    """Seed -> score on these rows."""
    runs, labels = found
    values = bootstrap.drawn_scores(metric, labels, list(runs.values()), rows[None])[0]
    return dict(zip(runs, map(float, values), strict=True))


def against(metric: str, ours: Predicted, theirs: Predicted, rows: np.ndarray) -> dict:
    """The difference on these rows, paired by seed, with intervals over seeds, and over seeds and rows.

    Raises:
        InputError: the two were not scored on the same rows.
    """
    if ours[1] != theirs[1]:
        raise InputError("the runs that are compared were not scored on the same rows")
    mine, reference = scores(metric, ours, rows), scores(metric, theirs, rows)
    labels = [ours[1][row] for row in rows]

    def cut(runs: Mapping[int, list]) -> dict[int, list]:
        return {seed: [run[row] for row in rows] for seed, run in runs.items()}

    both = bootstrap.compare(metric, labels, cut(ours[0]), cut(theirs[0])) or {}
    return {
        "score": over_seeds(reference),
        **compare(mine, reference),
        "rows_low": both.get("low"),
        "rows_high": both.get("high"),
    }


def markdown(found: Sequence[dict]) -> str:
    """A table: a line for each method that a chosen budget is compared with."""
    lines = [
        "| encoder | trained on | scored on | metric | budget | score | against | theirs | difference | over seeds |"
        " rows too |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for record in found:
        for row in record["against"]:
            other = ", ".join(filter(None, (row["method"], row["settings"])))
            tried = ", ".join(f"{each['budget']:g}" for each in record["choosing"])
            difference = "" if row["difference"] is None else f"{row['difference']:+.2f}, {row['pairs']} pairs"
            cells = (
                record["encoder"],
                record["task"],
                f"{record['scored_on']}, {record['rows']['reporting']:,}",
                record["metric"].replace("_", " "),
                f"{record['budget']:g} of {tried}" if tried else f"{record['budget']:g}",
                f"{record['reporting']['mean']:.2f}",
                f"**{other}**" if row["control"] else other,
                f"{row['score']['mean']:.2f}",
                difference,
                _interval(row["low"], row["high"]),
                _interval(row["rows_low"], row["rows_high"]),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    run_script(main)

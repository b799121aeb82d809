"""Scores on a subset of the rows, from saved predictions, and their differences, paired by seed."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.predictions import read_predictions
from experiments import bootstrap
from experiments.tables import Group, compare, listed, over_seeds
from utils import InputError, log

Predicted = tuple[dict[int, list], list]  # seed -> the run's prediction for each row; and the labels


def where(group: Group) -> str:
    """A name, for messages, of what all methods compared with a group share."""
    first = group.first
    parts = (first.args["load_model_path"], first.precision, group.task, listed(group.training))
    return ", ".join(filter(None, (*parts, f"scored on {first.scored_on}")))


def read(group: Group) -> Predicted | None:
    """The saved predictions of the runs; None, and a log message, if they cannot be compared by rows.

    Raises:
        InputError: two runs were not scored on the same rows.
    """
    files = {seed: each.predictions for seed, each in group.results.items() if each.predictions.exists()}
    columns = {seed: read_predictions(path) for seed, path in files.items()}
    labels = next(iter(columns.values()))["label"] if columns else []
    metric, why = group.first.metric, ""
    if group.first.held_out:
        why = "each seed holds out other rows"
    elif not columns:
        why = "its runs keep no predictions"
    elif not bootstrap.computes(metric, labels):
        why = f"{metric} is not computed from rows here"
    name = ", ".join(filter(None, (group.method, listed(group.own))))
    if why:
        log.warning(f"{where(group)}: {name} is left out: {why}")
        return None
    if missing := sorted(group.results.keys() - files.keys()):
        log.warning(f"{where(group)}: {name} is without seed {', '.join(map(str, missing))}: no predictions are kept")
    if any(each["label"] != labels for each in columns.values()):
        raise InputError(f"{next(iter(files.values()))}: its rows are not those of the other seeds")
    return {seed: bootstrap.predicted(each, metric) for seed, each in columns.items()}, labels


def check_rows(groups: Sequence[Group], read: Mapping[Group, Predicted]) -> None:
    """Raise `InputError` if two of these groups were not scored on the same rows."""
    first, *others = (group for group in groups if group in read)
    for other in others:
        if read[other][1] != read[first][1]:
            paths = (next(iter(group.results.values())).predictions for group in (first, other))
            raise InputError(f"{' and '.join(map(str, paths))}: not the same rows; report on them apart")


def of_seeds(arms: Mapping[float, Predicted], picks: Mapping[int, float]) -> Predicted | None:
    """For each seed, the run of the arm picked for it; all arms have the same rows. None if there is none."""
    runs = {seed: arms[pick][0][seed] for seed, pick in picks.items() if pick in arms and seed in arms[pick][0]}
    return (runs, next(iter(arms.values()))[1]) if runs else None


def scores(metric: str, found: Predicted, rows: np.ndarray) -> dict[int, float]:
    """Seed -> score on these rows."""
    runs, labels = found
    values = bootstrap.drawn_scores(metric, labels, list(runs.values()), rows[None])[0]
    return dict(zip(runs, map(float, values), strict=True))


def values(metric: str, terms: Sequence[Predicted], rows: np.ndarray) -> dict[int, float]:
    """Seed -> score; with two terms, the score of the first minus that of the second."""
    first, *second = (scores(metric, term, rows) for term in terms)
    return {seed: first[seed] - second[0][seed] for seed in first.keys() & second[0].keys()} if second else first


def against(metric: str, ours: Sequence[Predicted], theirs: Sequence[Predicted], rows: np.ndarray) -> dict:
    """The difference on these rows, paired by seed, with intervals over seeds, and over seeds and rows.

    Args:
        ours, theirs: terms as for `values`, equally many on both sides, all with the same rows.

    Returns:
        The fields of `tables.compare`, `rows_low` and `rows_high`, and each side's mean and deviation over the seeds
        that both have, as `own` and `theirs`.
    """
    every = ours[0][1]
    signs = [1, -1][: len(ours)] + [-1, 1][: len(theirs)]
    terms = [
        (sign, {seed: [run[row] for row in rows] for seed, run in runs.items()})
        for sign, (runs, _) in zip(signs, [*ours, *theirs], strict=True)
    ]
    both = bootstrap.contrast(metric, [every[row] for row in rows], terms) or {}
    sides = [values(metric, side, rows) for side in (ours, theirs)]
    common = sides[0].keys() & sides[1].keys()
    own, other = (over_seeds({seed: side[seed] for seed in common}) for side in sides)
    return {"own": own, "theirs": other, **compare(*sides), "rows_low": both.get("low"), "rows_high": both.get("high")}

"""Scores over seeds and their differences, paired by seed: from whole sets, or on a subset of the rows."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

from experiments import bootstrap
from experiments.bootstrap import CONFIDENCE
from experiments.groups import Group, Predicted, check_rows

POWER = 0.8  # power at which a difference is called detectable
MOST_FLIPPED = 16  # the most pairs for which all sign patterns are tried


def over_seeds(scores: Mapping[int, float]) -> dict:
    """Mean and sample standard deviation (None for a single score)."""
    values = list(scores.values())
    return {
        "mean": statistics.fmean(values) if values else None,
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
    }


def compare(scores: Mapping[int, float], reference: Mapping[int, float]) -> dict:
    """Scores minus a reference's, paired by seed.

    Returns:
        `pairs` and the mean `difference`, None without a pair; the ends `low` and `high` of its interval, `p` of the
        paired t-test (two-sided) and the `detectable` difference, None for fewer than two pairs or if all differences
        are equal; `p_flip` of the exact sign-flip test (two-sided), None for fewer than two pairs or more than
        `MOST_FLIPPED`.
    """
    differences = [scores[seed] - reference[seed] for seed in sorted(scores.keys() & reference.keys())]
    n = len(differences)
    found = dict.fromkeys(("difference", "low", "high", "p", "p_flip", "detectable"))
    if n:
        found["difference"] = statistics.fmean(differences)
    if n > 1 and not math.isclose(statistics.stdev(differences), 0, abs_tol=1e-9):
        test = stats.ttest_1samp(differences, 0)  # on the differences: the paired test
        low, high = test.confidence_interval(CONFIDENCE)
        found |= {"low": float(low), "high": float(high), "p": float(test.pvalue)}
        found["detectable"] = detectable(statistics.stdev(differences), n)
    if 1 < n <= MOST_FLIPPED:
        found["p_flip"] = sign_flips(differences)
    return {"pairs": n, **found}


def sign_flips(differences: Sequence[float]) -> float:
    """The two-sided p of the exact sign-flip test: the share of all sign patterns whose sum is at least as far from 0.

    Sums that differ only by rounding count as equal. scipy's `permutation_test` has a tolerance relative to the
    observed mean and so misses ties if that is near 0; ties are common when scores come in equal steps.
    """
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    sums = np.abs(signs @ np.asarray(differences))
    return float(np.mean(sums >= sums[0] - 1e-9))


def detectable(deviation: float, n: int) -> float:
    """The true mean difference that the paired t-test finds with a probability of `POWER`.

    Args:
        deviation: the standard deviation of the pairs' differences.
        n: the number of pairs, two or more.
    """
    quantile = stats.t.isf((1 - CONFIDENCE) / 2, n - 1)

    def missed(shift: float) -> float:
        """`POWER` minus the probability of a significant t; significance with the wrong sign does not count."""
        return POWER - stats.nct.sf(quantile, n - 1, shift)

    most = quantile
    while missed(most) > 0:
        most *= 2
    return float(optimize.brentq(missed, 0, most)) * deviation / math.sqrt(n)


def over_rows(group: Group, reference: Group) -> dict[str, float] | None:
    """The interval over seeds and rows for the last epoch.

    Returns:
        What `bootstrap.compare` does, and `detectable`: the detectable difference of the test over seeds, times the
        ratio of the two intervals' widths. None without two common seeds that all keep predictions, if these cannot be
        compared by rows, or if all seeds have the same difference.

    Raises:
        InputError: two runs were not scored on the same rows.
    """
    both = group, reference
    seeds = group.results.keys() & reference.results.keys()
    if len(seeds) < 2 or not all(each.results[seed].predictions.exists() for each in both for seed in seeds):
        return None
    ours, theirs = group.predicted, reference.predicted
    if isinstance(ours, str) or isinstance(theirs, str):
        return None
    check_rows(both, {group: ours, reference: theirs})
    interval = bootstrap.compare(group.first.metric, ours[1], ours[0], theirs[0])
    if interval is None:
        return None
    half, n = (interval["high"] - interval["low"]) / 2, len(seeds)
    deviation = half / stats.t.isf((1 - CONFIDENCE) / 2, n - 1) * math.sqrt(n)  # of pairs with as wide a t interval
    return interval | {"detectable": detectable(deviation, n)}


def of_seeds(arms: Mapping[float, Predicted], picks: Mapping[int, float]) -> Predicted | None:
    """For each seed, the run of the arm picked for it; all arms have the same rows. None if there is none."""
    runs = {seed: arms[pick][0][seed] for seed, pick in picks.items() if pick in arms and seed in arms[pick][0]}
    return (runs, next(iter(arms.values()))[1]) if runs else None


def interval_text(low: float | None, high: float | None) -> str:
    """An interval as tables and figures show it; empty if there is none."""
    return "" if low is None or high is None else f"[{low:+z.2f}, {high:+z.2f}]"


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
        The fields of `compare`, `rows_low` and `rows_high`, and each side's mean and deviation over the seeds
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

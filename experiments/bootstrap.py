"""Intervals by a bootstrap over seeds and rows, from the predictions that runs keep.

An interval over seeds alone takes the evaluation set for granted: another sample of as many rows would have scored
otherwise. Here both are drawn again, with replacement: the pairs of runs with one seed, and the rows, the same ones for
every run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 2000
CONFIDENCE = 0.95
OUTSIDE = 0  # the class of O, in every token task with a score over words


@dataclass(frozen=True)
class Score:
    """How a metric follows from rows.

    counts: (labels, predictions) -> (rows, k), what each row adds to sums.
    of_sums: (..., k) -> (...), the score in per cent; nan where it is not defined.
    """

    counts: Callable[[Sequence, Sequence], np.ndarray]
    of_sums: Callable[[np.ndarray], np.ndarray]


def _accuracy_counts(labels: Sequence, predictions: Sequence) -> np.ndarray:
    return np.stack([np.asarray(labels) == np.asarray(predictions), np.ones(len(labels), dtype=bool)], 1).astype(float)


def _binary_counts(labels: Sequence, predictions: Sequence) -> np.ndarray:
    label, found = np.asarray(labels) == 1, np.asarray(predictions) == 1
    return np.stack([label & found, ~label & found, label & ~found, ~label & ~found], 1).astype(float)


def _word_counts(labels: Sequence[Sequence[int]], predictions: Sequence[Sequence[int | None]]) -> np.ndarray:
    """Of each sentence: words rightly found, found, and to be found; words the encoder did not see are left out."""
    rows = []
    for tags, found in zip(labels, predictions, strict=True):
        seen = [(tag, word) for tag, word in zip(tags, found, strict=True) if word is not None]
        right = sum(tag == word != OUTSIDE for tag, word in seen)
        rows.append([right, sum(word != OUTSIDE for _, word in seen), sum(tag != OUTSIDE for tag, _ in seen)])
    return np.asarray(rows, dtype=float).reshape(-1, 3)


def _word_accuracy_counts(labels: Sequence, predictions: Sequence) -> np.ndarray:
    rows = []
    for tags, found in zip(labels, predictions, strict=True):
        seen = [(tag, word) for tag, word in zip(tags, found, strict=True) if word is not None]
        rows.append([sum(tag == word for tag, word in seen), len(seen)])
    return np.asarray(rows, dtype=float).reshape(-1, 2)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return 100 * np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _f1(sums: np.ndarray) -> np.ndarray:
    hit, false, missed = np.moveaxis(sums, -1, 0)[:3]
    return _ratio(2 * hit, 2 * hit + false + missed)


def _matthews(sums: np.ndarray) -> np.ndarray:
    hit, false, missed, passed = np.moveaxis(sums, -1, 0)
    below = np.sqrt((hit + false) * (hit + missed) * (passed + false) * (passed + missed))
    return np.nan_to_num(_ratio(hit * passed - false * missed, below))  # as reported: 0 where all is one class


SCORES = {
    "accuracy": Score(_accuracy_counts, lambda sums: _ratio(sums[..., 0], sums[..., 1])),
    "f1": Score(_binary_counts, _f1),
    "matthews": Score(_binary_counts, _matthews),
    "token_f1": Score(_word_counts, lambda sums: _ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])),
    "word_accuracy": Score(_word_accuracy_counts, lambda sums: _ratio(sums[..., 0], sums[..., 1])),
}
CORRELATIONS = {
    "spearman": lambda labels, found: 100 * stats.spearmanr(labels, found).statistic,
    "pearson": lambda labels, found: 100 * stats.pearsonr(labels, found).statistic,
}


def computes(metric: str, labels: Sequence) -> bool:
    """Whether a metric follows from sums over rows here; F1 and Matthews' coefficient do for two classes alone."""
    two_classes = metric not in ("f1", "matthews") or max(labels, default=0) < 2
    return metric in CORRELATIONS or (metric in SCORES and two_classes)


def predicted(columns: Mapping[str, Sequence], metric: str) -> list:
    """What a run predicted for each row, from the logits of its file of predictions.

    Returns:
        A class or score a row, or of a token task a list of classes, None for a word that the encoder did not see.
    """
    logits = columns["logits"]
    if metric in CORRELATIONS:
        return [row[0] for row in logits]
    if logits and isinstance(columns["label"][0], list):
        return [[None if word is None else int(np.argmax(word)) for word in row] for row in logits]
    return [int(np.argmax(row)) for row in logits]


def drawn_scores(metric: str, labels: Sequence, runs: Sequence[Sequence], rows: np.ndarray) -> np.ndarray:
    """The score of each run on each draw of rows: (draws, runs).

    Args:
        labels: of the evaluated rows.
        runs: of each run, what it predicted, as from `predicted`.
        rows: (draws, n), the indices of the rows of each draw.
    """
    if metric in CORRELATIONS:
        label, function = np.asarray(labels, dtype=float), CORRELATIONS[metric]
        found = [np.asarray(run, dtype=float) for run in runs]
        return np.array([[function(label[draw], run[draw]) for run in found] for draw in rows])
    words = bool(labels) and isinstance(labels[0], list)
    score = SCORES["word_accuracy" if words and metric == "accuracy" else metric]
    times = np.stack([np.bincount(draw, minlength=len(labels)) for draw in rows]).astype(float)  # (draws, rows)
    return np.stack([score.of_sums(times @ score.counts(labels, run)) for run in runs], 1)


def compare(
    metric: str, labels: Sequence, runs: Mapping[int, Sequence], reference: Mapping[int, Sequence], draws: int = DRAWS
) -> dict[str, float] | None:
    """The difference of two methods' mean scores, paired by seed, by a bootstrap over seeds and rows.

    Args:
        labels: of the evaluated rows, the same for all runs.
        runs, reference: seed -> what that run predicted.

    Returns:
        `low` and `high`, the ends of the interval; `sampling_error`, the standard deviation that drawing the rows again
        gives the score of one run of the reference. None without two seeds in common.
    """
    seeds = sorted(runs.keys() & reference.keys())
    if len(seeds) < 2:
        return None
    random = np.random.default_rng(0)  # the same figures at each call
    count = min(draws, 500) if metric in CORRELATIONS else draws  # ranks are made anew for each draw
    rows = random.integers(len(labels), size=(count, len(labels)))
    pairs = random.integers(len(seeds), size=(count, len(seeds)))
    of_runs = drawn_scores(metric, labels, [runs[seed] for seed in seeds], rows)
    of_reference = drawn_scores(metric, labels, [reference[seed] for seed in seeds], rows)
    differences = np.take_along_axis(of_runs - of_reference, pairs, 1).mean(1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(differences, [tail, 100 - tail])
    return {"low": float(low), "high": float(high), "sampling_error": float(np.nanstd(of_reference, 0).mean())}

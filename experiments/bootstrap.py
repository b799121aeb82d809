"""Confidence intervals over seeds and rows, from the predictions that runs save.

An interval over seeds alone treats the evaluation set as fixed, but another sample of as many rows would give other
scores. Here the rows are resampled with replacement, the same ones for every run, and the resulting variation of the
difference widens Student's interval over seeds. Resampling the seeds as well would not work: with three pairs, such an
interval misses the truth in one case of four.

The interval is conservative. A row that only one seed gets right by chance affects both the spread over seeds and the
mean over resampled rows, and so is counted twice. If nothing else moves the scores, the interval is sqrt(1 + (1.96 /
t)^2) times as wide as necessary, where t is the quantile of Student's t: 1.10 for three pairs, 1.22 for five, 1.26 for
six, and never more than sqrt(2). If all seeds err on the same rows, nothing is counted twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from data.metrics import NO_CLASS, best_class

DRAWS = 2000
DRAWN_AT_ONCE = 10**7  # row indices in memory at once
CONFIDENCE = 0.95
OUTSIDE = 0  # the class of the tag O in every token task with a score over words


@dataclass(frozen=True)
class Score:
    """A metric that is computed from sums over rows.

    counts: (labels, predictions) -> (rows, k), each row's contribution to the sums.
    of_sums: (..., k) -> (...), the score in per cent; 0, as in reports, if it is undefined.
    """

    counts: Callable[[Sequence, Sequence], np.ndarray]
    of_sums: Callable[[np.ndarray], np.ndarray]


def _accuracy_counts(labels: Sequence, predictions: Sequence) -> np.ndarray:
    return np.stack([np.asarray(labels) == np.asarray(predictions), np.ones(len(labels), dtype=bool)], 1).astype(float)


def _binary_counts(labels: Sequence, predictions: Sequence) -> np.ndarray:
    label, found = np.asarray(labels) == 1, np.asarray(predictions) == 1
    return np.stack([label & found, ~label & found, label & ~found, ~label & ~found], 1).astype(float)


def _word_counts(labels: Sequence[Sequence[int]], predictions: Sequence[Sequence[int | None]]) -> np.ndarray:
    """For each sentence, the counts of words found correctly, found, and to be found; unseen words are left out."""
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
    return 100 * np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)


def _f1(sums: np.ndarray) -> np.ndarray:
    hit, false, missed = np.moveaxis(sums, -1, 0)[:3]
    return _ratio(2 * hit, 2 * hit + false + missed)


def _matthews(sums: np.ndarray) -> np.ndarray:
    hit, false, missed, passed = np.moveaxis(sums, -1, 0)
    below = np.sqrt((hit + false) * (hit + missed) * (passed + false) * (passed + missed))
    return _ratio(hit * passed - false * missed, below)


SCORES = {
    "accuracy": Score(_accuracy_counts, lambda sums: _ratio(sums[..., 0], sums[..., 1])),
    "f1": Score(_binary_counts, _f1),
    "matthews": Score(_binary_counts, _matthews),
    "token_f1": Score(_word_counts, lambda sums: _ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])),
    "word_accuracy": Score(_word_accuracy_counts, lambda sums: _ratio(sums[..., 0], sums[..., 1])),
}
# metric -> what is correlated, from values (..., n)
CORRELATIONS: dict[str, Callable] = {"spearman": lambda values: stats.rankdata(values, axis=-1), "pearson": np.asarray}


def computes(metric: str, labels: Sequence) -> bool:
    """Whether this module can compute a metric; F1 and Matthews' coefficient only with two classes, 0 and 1."""
    two_classes = metric not in ("f1", "matthews") or all(label in (0, 1) for label in labels)
    return metric in CORRELATIONS or (metric in SCORES and two_classes)


def predicted(columns: Mapping[str, Sequence], metric: str) -> list:
    """A run's prediction for each row, from the logits in its predictions file.

    Returns:
        A class or score per row; in a token task, a list of classes, None for a word that the encoder did not see.
        `NO_CLASS` if a logit is not finite.
    """
    logits = columns["logits"]
    if metric in CORRELATIONS:
        return [row[0] for row in logits]
    if not logits:
        return []
    if not isinstance(columns["label"][0], list):
        return best_class([*map(np.asarray, logits)]).tolist()
    seen = [word for row in logits for word in row if word is not None]
    classes = iter(best_class([*map(np.asarray, seen)]).tolist() if seen else [])
    return [[None if word is None else next(classes) for word in row] for row in logits]


def _is_whole(run: Sequence, metric: str) -> bool:
    """Whether all of a run's predictions are numbers; if not, its score is 0, as in reports."""
    flat = [each for row in run for each in (row if isinstance(row, list) else [row]) if each is not None]
    no_class = metric not in CORRELATIONS and NO_CLASS in flat  # a predicted score may equal it
    return not no_class and bool(np.isfinite(flat).all())


def drawn_scores(metric: str, labels: Sequence, runs: Sequence[Sequence], rows: np.ndarray) -> np.ndarray:
    """The score of each run on each draw of rows: (draws, runs).

    Args:
        labels: labels of the evaluated rows.
        runs: each run's predictions, as from `predicted`.
        rows: (draws, n), the row indices of each draw.
    """
    whole = np.array([_is_whole(run, metric) for run in runs])
    if metric in CORRELATIONS:

        def standardized(values: Sequence[float]) -> np.ndarray:  # (draws, n); 0 if constant: it has no correlation
            drawn = CORRELATIONS[metric](np.asarray(values, dtype=float)[rows])
            varies = (drawn != drawn[:, :1]).any(1, keepdims=True)  # exact, unlike a length that is rounded
            drawn = drawn - drawn.mean(1, keepdims=True)
            length = np.linalg.norm(drawn, axis=1, keepdims=True)
            return np.divide(drawn, length, out=np.zeros_like(drawn), where=varies)

        label = standardized(labels)
        # Runs that are not whole get 0 below, whatever stands here.
        found = [run if good else labels for run, good in zip(runs, whole, strict=True)]
        return np.where(whole, 100 * np.stack([(label * standardized(run)).sum(1) for run in found], 1), 0.0)
    words = bool(labels) and isinstance(labels[0], list)
    score = SCORES["word_accuracy" if words and metric == "accuracy" else metric]
    times = np.stack([np.bincount(draw, minlength=len(labels)) for draw in rows]).astype(float)  # (draws, rows)
    counts = np.stack([score.counts(labels, run) for run in runs], 1)  # (rows, runs, k)
    # All runs at once, because `times` is large.
    return np.where(whole, score.of_sums(np.tensordot(times, counts, 1)), 0.0)


def compare(
    metric: str, labels: Sequence, runs: Mapping[int, Sequence], reference: Mapping[int, Sequence], draws: int = DRAWS
) -> dict[str, float] | None:
    """The difference of two methods' mean scores, paired by seed, with an interval over seeds and rows.

    Args:
        labels: labels of the evaluated rows, the same for all runs.
        runs, reference: seed -> that run's predictions.

    Returns:
        `low` and `high`, the ends of the interval, which is conservative (see above); `sampling_error`, the standard
        deviation over resampled rows of the score of one run of the reference. None without two common seeds, or if
        all seeds have the same difference, which says nothing about the spread over seeds.
    """
    return contrast(metric, labels, [(1, runs), (-1, reference)], draws)


def contrast(
    metric: str, labels: Sequence, terms: Sequence[tuple[int, Mapping[int, Sequence]]], draws: int = DRAWS
) -> dict[str, float] | None:
    """Like `compare`, for a weighted sum of scores.

    Args:
        terms: pairs of a weight and seed -> that run's predictions; the last one is the reference.
    """
    seeds = sorted(set.intersection(*(set(runs) for _, runs in terms)))
    if len(seeds) < 2:
        return None
    weights = np.array([weight for weight, _ in terms], dtype=float)

    def scored(rows: np.ndarray) -> np.ndarray:  # (terms, draws, seeds)
        found = drawn_scores(metric, labels, [runs[seed] for _, runs in terms for seed in seeds], rows)
        return found.reshape(len(rows), len(terms), len(seeds)).swapaxes(0, 1)

    def summed(scores: np.ndarray) -> np.ndarray:  # (draws, seeds)
        return np.tensordot(weights, scores, 1)

    observed = summed(scored(np.arange(len(labels))[None]))[0]  # one difference per seed
    if np.isclose(observed.std(), 0, atol=1e-9):
        return None
    random = np.random.default_rng(0)  # the same results in each call
    count = min(draws, 500) if metric in CORRELATIONS else draws  # each draw is sorted again
    at_once = max(1, DRAWN_AT_ONCE // len(labels))
    sizes = [min(at_once, count - first) for first in range(0, count, at_once)]
    drawn = np.concatenate([scored(random.integers(len(labels), size=(size, len(labels)))) for size in sizes], 1)
    end = (1 + CONFIDENCE) / 2
    over_seeds = stats.t.ppf(end, len(seeds) - 1) * observed.std(ddof=1) / len(seeds) ** 0.5
    over_rows = stats.norm.ppf(end) * summed(drawn).mean(1).std()
    middle, half = observed.mean(), np.hypot(over_seeds, over_rows)
    return {
        "low": float(middle - half),
        "high": float(middle + half),
        "sampling_error": float(drawn[-1].std(0).mean()),
    }

"""The official metrics, in per cent, computed by scikit-learn, SciPy and seqeval."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
import seqeval.metrics
from scipy import stats
from sklearn import metrics as sklearn_metrics
from sklearn.exceptions import UndefinedMetricWarning

from data.task_kinds import IGNORED_LABEL
from utils import log

# One number or tag per row, or a list of them.
Values = Sequence | np.ndarray

NO_CLASS = -1  # instead of a class if the model's output is not a number
NO_TAG = "not a number"  # the same for the tag of a word
# The libraries' warnings about an undefined score, for which they return 0 or nan.
UNDEFINED = (UndefinedMetricWarning, stats.ConstantInputWarning)


def best_class(logits: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """(n, classes) -> (n,): the class with the highest logit, or `NO_CLASS` if a logit is not finite.

    In multiple choice, rows may have different numbers of logits.
    """
    if len({len(row) for row in logits}) > 1:
        return np.concatenate([best_class([row]) for row in logits])
    stacked = np.stack([*logits])
    return np.where(np.isfinite(stacked).all(-1), stacked.argmax(-1), NO_CLASS)


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    constant = min(len(np.unique(labels)), len(np.unique(predictions))) < 2
    return np.nan if constant else sklearn_metrics.matthews_corrcoef(labels, predictions)


def _macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """The mean F1 over the classes in labels or predictions, without labels that the model lacks."""
    classes = np.setdiff1d(np.union1d(labels, predictions), [IGNORED_LABEL])
    return sklearn_metrics.f1_score(labels, predictions, labels=classes, average="macro")


def _correlation(function):
    return lambda labels, predictions: function(labels, predictions).statistic if len(labels) > 1 else np.nan


# name -> function of (labels, predictions), both (n,); higher is better, and nan means undefined.
METRICS = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": lambda labels, predictions: sklearn_metrics.f1_score(
        np.equal(labels, 1), np.equal(predictions, 1), zero_division=np.nan
    ),
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
}


OUTSIDE = "O"  # the tag of a word outside any entity


def _accuracy(tags: list[list[str]], predictions: list[list[str]]) -> float:
    known = [*chain(*tags)]
    return sklearn_metrics.accuracy_score(known, [*chain(*predictions)]) if known else np.nan


def _token_f1(tags: list[list[str]], predictions: list[list[str]]) -> float:
    """Micro-F1 over words, without O: the release's score."""
    known, predicted = list(chain(*tags)), list(chain(*predictions))
    kinds = sorted({*known, *predicted} - {OUTSIDE})
    return sklearn_metrics.f1_score(known, predicted, labels=kinds, average="micro") if kinds else np.nan


# BILOU's prefixes for last and single words, and the BIOES prefixes that seqeval knows instead.
AS_BIOES = {"L-": "E-", "U-": "S-"}


def _as_bioes(rows: list[list[str]]) -> list[list[str]]:
    return [[AS_BIOES.get(tag[:2], tag[:2]) + tag[2:] for tag in row] for row in rows]


def _of_entities(function: Callable) -> Callable:
    return lambda tags, predictions: function(_as_bioes(tags), _as_bioes(predictions))


# name -> function of (tags, predictions), both with a list of tags for each sentence.
WORD_METRICS = {
    "accuracy": _accuracy,
    "token_f1": _token_f1,
    "entity_f1": _of_entities(seqeval.metrics.f1_score),
    "entity_precision": _of_entities(seqeval.metrics.precision_score),
    "entity_recall": _of_entities(seqeval.metrics.recall_score),
}


def compute(names: tuple[str, ...], labels: Values, predictions: Values) -> dict[str, float]:
    """Metric name -> per cent; 0 for an undefined metric, which is logged.

    Args:
        labels: (n,), class indices, or scores of a regression. A label that is not a class of the model counts as
            wrong; for f1, which is that of class 1, it is another class.
        predictions: likewise; if any is `NO_CLASS` or not a number, all metrics are undefined.
    """
    predicted = np.asarray(predictions)
    broken = not np.isfinite(predicted).all() or bool(
        np.issubdtype(predicted.dtype, np.integer) and (predicted == NO_CLASS).any()
    )
    return _defined(_values(names, METRICS, labels, predicted, broken))


def by_group(
    labels: Sequence[int], predictions: np.ndarray, names: Sequence[str], groups: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Accuracies in per cent for each label, each group, and each label within each group.

    Args:
        labels, predictions: (n,), class indices.
        names: names of the labels, in class order.
        groups: the groups of each row; if no row has any, nothing is computed.
    """
    right = np.asarray(labels) == predictions
    members = {
        group: np.array([group in row for row in groups])
        for group in sorted({group for row in groups for group in row})
    }
    of_label = {name: np.asarray(labels) == label for label, name in enumerate(names)} if members else {}
    parts = of_label | members
    parts |= {f"{group}/{name}": of_label[name] & rows for group, rows in members.items() for name in of_label}
    return {f"{name}/accuracy": 100 * float(right[rows].mean()) for name, rows in parts.items() if rows.any()}


def compute_words(
    names: tuple[str, ...], tags: list[list[str]], predictions: list[list[str | None]]
) -> dict[str, float]:
    """Metrics of a token task: over the words that the encoder saw, as published, and over all words.

    Args:
        predictions: None for a word that the encoder did not see. In the metrics over all words, `<name>_all_words`, it
            counts as O, or as wrong if there is no such tag. If any is `NO_TAG`, all metrics are undefined.
    """
    broken = NO_TAG in chain(*predictions)
    seen = [[prediction is not None for prediction in row] for row in predictions]
    scores = _values(names, WORD_METRICS, _select(tags, seen), _select(predictions, seen), broken)
    whole = _values(names, WORD_METRICS, tags, outside_where_unseen(predictions), broken)
    return _defined(scores | {f"{name}_all_words": value for name, value in whole.items()})


def _values(
    names: tuple[str, ...], known: Mapping[str, Callable], labels: Values, predictions: Values, broken: bool
) -> dict[str, float]:
    """Metric name -> per cent, nan for an undefined metric; if the predictions are broken, all are undefined."""
    return {name: np.nan if broken else _value(known[name], labels, predictions) for name in names}


def _value(function: Callable, labels: Values, predictions: Values) -> float:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        value = 100 * float(function(labels, predictions))
    return np.nan if any(issubclass(warning.category, UNDEFINED) for warning in heard) else value


def _defined(scores: dict[str, float]) -> dict[str, float]:
    undefined = [name for name, value in scores.items() if np.isnan(value)]
    if undefined:
        log.warning(
            f"{', '.join(undefined)}: not defined for these labels and predictions (all alike, none to find, or not"
            " numbers): 0 is reported"
        )
    return {name: 0.0 if np.isnan(value) else value for name, value in scores.items()}


def outside_where_unseen(predictions: list[list[str | None]]) -> list[list[str]]:
    """A tag for every word: O if there is no prediction."""
    return [[OUTSIDE if tag is None else tag for tag in row] for row in predictions]


def _select(rows: list[list], kept: list[list[bool]]) -> list[list]:
    return [[value for value, keep in zip(*pair, strict=True) if keep] for pair in zip(rows, kept, strict=True)]


def of_masked_words(figures: Sequence[np.ndarray]) -> dict[str, float]:
    """Accuracy in per cent and perplexity (exp of the mean loss) over all masked words.

    Args:
        figures: for each row, the sum of its losses, the number of its masked words, and how many are predicted right.
    """
    loss, words, right = np.asarray(figures, dtype=np.float64).sum(axis=0)
    return {"accuracy": float(100 * right / words), "perplexity": float(np.exp(loss / words))}

"""The official metrics, in per cent; scikit-learn, SciPy and seqeval compute them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
import seqeval.metrics
from scipy import stats
from sklearn import metrics as sklearn_metrics

from utils import log


def _correlation(name: str, function):
    def compute(labels: np.ndarray, predictions: np.ndarray) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            value = function(labels, predictions).statistic if len(labels) > 1 else np.nan
        if np.isnan(value):
            log.warning(f"{name} is not defined for constant labels or predictions: 0 is reported")
            return 0.0
        return float(value)

    return compute


# name -> function of (labels, predictions), both (n,); for each of them more is better.
METRICS = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1": lambda labels, predictions: sklearn_metrics.f1_score(labels, predictions, zero_division=0.0),
    "matthews": sklearn_metrics.matthews_corrcoef,
    "pearson": _correlation("Pearson's correlation", stats.pearsonr),
    "spearman": _correlation("Spearman's correlation", stats.spearmanr),
}


OUTSIDE = "O"  # the tag of a word that is no part of an entity


def _token_f1(tags: list[list[str]], predictions: list[list[str]]) -> float:
    """Micro-F1 over words, without O: the release's score."""
    tags, predictions = list(chain(*tags)), list(chain(*predictions))
    kinds = sorted({*tags, *predictions} - {OUTSIDE})
    if not kinds:
        return 0.0
    return sklearn_metrics.f1_score(tags, predictions, labels=kinds, average="micro", zero_division=0.0)


def _of_entities(function):
    return lambda tags, predictions: function(tags, predictions, zero_division=0)


# name -> function of (tags, predictions), both a list of words' tags for each sentence.
WORD_METRICS = {
    "accuracy": lambda tags, predictions: sklearn_metrics.accuracy_score([*chain(*tags)], [*chain(*predictions)]),
    "token_f1": _token_f1,
    "entity_f1": _of_entities(seqeval.metrics.f1_score),
    "entity_precision": _of_entities(seqeval.metrics.precision_score),
    "entity_recall": _of_entities(seqeval.metrics.recall_score),
}


def compute(
    names: tuple[str, ...], labels: Sequence, predictions: Sequence, known: Mapping[str, Callable] = METRICS
) -> dict[str, float]:
    """Metric name -> per cent.

    Args:
        labels: (n,), class indices, or scores of a regression; or what else the functions in `known` take.
        predictions: likewise.
    """
    return {name: 100 * float(known[name](labels, predictions)) for name in names}


def by_group(
    labels: Sequence[int], predictions: np.ndarray, names: Sequence[str], groups: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Accuracies in per cent of the rows of each label, of each group, and of each label within each group.

    Args:
        labels, predictions: (n,), class indices.
        names: of the labels, in class order.
        groups: the groups that each row is in; where no row is in any, nothing is computed.
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
    """Metrics of a token task, over the words that the encoder saw, as published, and then over all words.

    Args:
        predictions: None for a word that the encoder did not see. In the second figures, `<name>_all_words`, it counts
            as O, or as wrong where there is no such tag.
    """
    seen = [[prediction is not None for prediction in row] for row in predictions]
    scores = compute(names, _select(tags, seen), _select(predictions, seen), WORD_METRICS)
    whole = compute(names, tags, outside_where_unseen(predictions), WORD_METRICS)
    return scores | {f"{name}_all_words": value for name, value in whole.items()}


def outside_where_unseen(predictions: list[list[str | None]]) -> list[list[str]]:
    """A tag for every word: O where there is no prediction."""
    return [[OUTSIDE if tag is None else tag for tag in row] for row in predictions]


def _select(rows: list[list], kept: list[list[bool]]) -> list[list]:
    return [[value for value, keep in zip(*pair, strict=True) if keep] for pair in zip(rows, kept, strict=True)]

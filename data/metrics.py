"""The official metrics, in per cent; scikit-learn and SciPy compute them."""

import warnings
from collections.abc import Sequence

import numpy as np
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


def compute(names: tuple[str, ...], labels: Sequence, predictions: np.ndarray) -> dict[str, float]:
    """Metric name -> per cent.

    Args:
        labels: (n,), class indices, or scores of a regression.
        predictions: (n,), likewise.
    """
    labels = np.asarray(labels)
    return {name: 100 * float(METRICS[name](labels, predictions)) for name in names}

"""Intervals over seeds and rows: the scores of drawn rows are the library's, and the intervals those of known cases."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from data.metrics import NO_CLASS, compute_words
from experiments import bootstrap
from experiments.bootstrap import compare, contrast, drawn_scores, predicted

RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", metrics.accuracy_score),
        ("f1", metrics.f1_score),
        ("matthews", metrics.matthews_corrcoef),
    ],
)
def test_scores_of_drawn_rows_are_those_of_scikit_learn(metric, expected):
    labels = RANDOM.integers(2, size=40).tolist()
    runs = [RANDOM.integers(2, size=40).tolist() for _ in range(2)]
    rows = RANDOM.integers(40, size=(5, 40))
    found = drawn_scores(metric, labels, runs, rows)
    for draw, scores in zip(rows, found, strict=True):
        for run, score in zip(runs, scores, strict=True):
            assert score == pytest.approx(100 * expected(np.array(labels)[draw], np.array(run)[draw]))


def test_correlations_of_drawn_rows():
    labels, run = RANDOM.random(30).tolist(), RANDOM.random(30).tolist()
    rows = RANDOM.integers(30, size=(3, 30))
    for metric, function in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        found = drawn_scores(metric, labels, [run], rows)[:, 0]
        expected = [100 * function(np.array(labels)[draw], np.array(run)[draw]).statistic for draw in rows]
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_a_constant_draw_has_no_correlation(metric):
    labels, run = [1.0, 2.0, 0.5], [0.1, 0.1, 0.3]
    rows = np.array([[0, 1, 0], [0, 0, 0], [0, 1, 2]])
    found = drawn_scores(metric, labels, [run, [0.1] * 3], rows)
    assert found[:2].tolist() == [[0.0, 0.0]] * 2
    assert found[2, 0] < 0 == found[2, 1]


def test_words_are_scored_as_the_task_scores_them():
    tags = ("O", "B-a", "I-a", "B-b")
    labels = [[0, 1, 2], [3, 0], [1, 0, 0, 3]]
    found = [[0, 1, 1], [3, None], [0, 3, 0, 3]]
    words = [[None if word is None else tags[word] for word in row] for row in found]
    gold = [[tags[label] for label in row] for row in labels]
    everything = np.arange(3)[None]
    for metric in ("token_f1", "accuracy"):
        expected = compute_words((metric,), gold, words)[metric]
        assert drawn_scores(metric, labels, [found], everything)[0, 0] == pytest.approx(expected)


def test_predictions_come_from_logits():
    assert predicted({"label": [0, 1], "logits": [[0.1, 0.2], [3.0, -1.0]]}, "accuracy") == [1, 0]
    assert predicted({"label": [2.5], "logits": [[1.5]]}, "spearman") == [1.5]
    assert predicted({"label": [[0, 1]], "logits": [[[1.0, 2.0], None]]}, "token_f1") == [[1, None]]


def test_the_interval_has_both_sources_of_chance():
    """Two methods whose rows differ as coins do: the interval is that of a difference of two proportions."""
    n, seeds = 400, range(4)
    labels = [1] * n
    runs = {seed: (RANDOM.random(n) < 0.8).astype(int).tolist() for seed in seeds}
    worse = {seed: (RANDOM.random(n) < 0.6).astype(int).tolist() for seed in seeds}
    found = compare("accuracy", labels, worse, runs)
    scores = [[100 * np.mean(run[seed]) for seed in seeds] for run in (worse, runs)]
    differences = np.subtract(*scores)
    over_seeds = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert found["low"] < over_seeds.low < over_seeds.high < found["high"] < 0
    # The rows give 1.96 standard errors of the mean of four differences, whose rows are independent here.
    over_rows = 1.96 * 100 * ((0.8 * 0.2 + 0.6 * 0.4) / n / len(seeds)) ** 0.5
    half = np.hypot((over_seeds.high - over_seeds.low) / 2, over_rows)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.05)
    assert found["high"] + found["low"] == pytest.approx(2 * np.mean(differences))
    assert found["sampling_error"] == pytest.approx(100 * (0.8 * 0.2 / n) ** 0.5, rel=0.15)
    assert compare("accuracy", labels, worse, runs) == found
    assert compare("accuracy", labels, {0: runs[0]}, runs) is None


def test_equal_differences_have_no_interval():
    """They do not show how far seeds spread, so that the rows alone would make it: as for Student's interval."""
    labels = [1] * 100
    ours, theirs = ({seed: [1] * (right + seed) + [0] * (100 - right - seed) for seed in (0, 2)} for right in (88, 85))
    assert compare("accuracy", labels, ours, theirs) is None
    theirs[0][0] = 0
    assert compare("accuracy", labels, ours, theirs)["low"] < 3.5


def test_a_sum_with_weights():
    """Of accuracies, what is added and taken away again does not count, also of the same drawn rows."""
    labels = [1] * 60
    ours, theirs, both = ({seed: RANDOM.integers(2, size=60).tolist() for seed in range(3)} for _ in range(3))
    found = contrast("accuracy", labels, [(1, ours), (-1, both), (1, both), (-1, theirs)], draws=50)
    expected = compare("accuracy", labels, ours, theirs, draws=50)
    assert found == pytest.approx(expected)
    assert contrast("accuracy", labels, [(1, ours), (-1, {0: both[0]}), (-1, theirs)]) is None


def test_draws_in_parts_are_the_same_draws(monkeypatch):
    labels = RANDOM.integers(2, size=50).tolist()
    runs = [{seed: RANDOM.integers(2, size=50).tolist() for seed in range(3)} for _ in range(2)]
    expected = compare("f1", labels, *runs, draws=30)
    monkeypatch.setattr(bootstrap, "DRAWN_AT_ONCE", 350)  # seven at a time
    assert compare("f1", labels, *runs, draws=30) == expected


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_a_run_without_a_correlation_counts_as_nought(metric):
    labels = np.linspace(0, 5, 20).tolist()
    found = drawn_scores(metric, labels, [[1.0] * 20, [*labels[1:], float("nan")], labels], np.arange(20)[None])
    assert found.tolist() == [[0.0, 0.0, pytest.approx(100)]]


def test_a_run_whose_logits_are_no_numbers_counts_as_nought():
    columns = {"label": [0, 1], "logits": [[1.0, 0.0], [float("nan"), 1.0]]}
    assert predicted(columns, "accuracy") == [0, NO_CLASS]
    assert drawn_scores("accuracy", [0, 1], [[0, NO_CLASS], [0, 0]], np.arange(2)[None]).tolist() == [[0.0, 50.0]]


def test_which_metrics_are_computed_from_rows():
    assert bootstrap.computes("matthews", [0, 1, 1])
    assert not bootstrap.computes("matthews", [0, 1, 2])
    assert not bootstrap.computes("f1", [0, 1, NO_CLASS])  # a label that the task does not have
    assert bootstrap.computes("accuracy", [0, 1, 2, NO_CLASS])
    assert not bootstrap.computes("entity_f1", [[0, 1]])

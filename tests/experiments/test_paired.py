"""Means over seeds and paired differences, by hand."""

import numpy as np
import pytest

from experiments.paired import compare, detectable, over_seeds


def test_statistics_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt 3, t = 2 sqrt 3 with 2 degrees of freedom."""
    found = compare({1: 91, 2: 92, 3: 93, 9: 0}, {1: 90, 2: 90, 3: 90, 4: 100})
    assert found["pairs"] == 3
    assert found["difference"] == pytest.approx(2)
    quantile = 4.302653  # of Student's t with 2 degrees of freedom, at 0.975
    assert found["low"] == pytest.approx(2 - quantile / 3**0.5, abs=1e-5)
    assert found["high"] == pytest.approx(2 + quantile / 3**0.5, abs=1e-5)
    t = 2 * 3**0.5  # for 2 degrees of freedom the distribution function is 1/2 + t / (2 sqrt(t^2 + 2))
    assert found["p"] == pytest.approx(1 - t / (t**2 + 2) ** 0.5)
    assert found["p_flip"] == 2 / 8  # all signs as they are, or all the other way
    # Sums of 3, -1 and 1 with signs: 3 is observed; 5, 3, 3 and 1, each with its opposite.
    assert compare({1: 3, 2: -1, 3: 1}, {1: 0, 2: 0, 3: 0})["p_flip"] == 6 / 8
    # Right answers of 9,815 rows: sums of five, four of them 6 and one 0, as far from 0 as -12; those of six, as -11.
    for right, others, p in (
        ([5031, 5017, 4870, 5002, 4911], [5025, 5023, 4876, 5002, 4917], 10 / 16),
        ([5031, 5017, 4870, 5002, 4911, 7], [5034, 5025, 4873, 4999, 4911, 7], 8 / 16),
    ):
        scores, reference = ({seed: 100 * (n / 9815) for seed, n in enumerate(each)} for each in (right, others))
        assert compare(scores, reference)["p_flip"] == p

    nothing = {"low": None, "high": None, "p": None, "detectable": None}
    assert compare({1: 5.0}, {1: 4.0}) == {"pairs": 1, "difference": 1.0, "p_flip": None, **nothing}
    assert compare({1: 5.0}, {2: 4.0}) == {"pairs": 0, "difference": None, "p_flip": None, **nothing}
    assert compare({1: 5.0, 2: 6.0}, {1: 4.0, 2: 5.0}) == {"pairs": 2, "difference": 1.0, "p_flip": 0.5, **nothing}
    assert over_seeds({1: 92.0, 2: 91.0}) == {"mean": 91.5, "deviation": pytest.approx(0.5**0.5)}
    assert over_seeds({1: 92.0}) == {"mean": 92.0, "deviation": None}


def test_the_detectable_difference():
    # Cohen (1988), table 2.3.5: with power .80 at .05 (two-sided), d = 0.5 takes 34 pairs; d = 0.2 takes 198 or 199.
    assert detectable(1.0, 34) == pytest.approx(0.5, abs=0.01)
    assert detectable(1.0, 199) == pytest.approx(0.2, abs=0.001)
    assert detectable(3.0, 34) == pytest.approx(3 * detectable(1.0, 34))
    # By drawing: of three pairs, as often as it should be.
    draws = np.random.default_rng(0).normal(detectable(1.0, 3), 1.0, (20_000, 3))
    found = np.abs(draws.mean(1)) / (draws.std(1, ddof=1) / 3**0.5) > 4.302653
    assert found.mean() == pytest.approx(0.8, abs=0.01)

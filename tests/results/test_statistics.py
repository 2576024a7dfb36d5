"""Rates and paired differences against scipy, statsmodels' formulas by hand, and published examples."""

import math

import pytest
from scipy.stats import binom, norm

from pipeline.results.statistics import Paired, Rate


def test_wilson_by_its_formula() -> None:
    """Wilson 1927: the roots of (p - rate)² = z² p (1 - p) / n."""
    z, of, successes = float(norm.ppf(0.975)), 18, 4
    for root in (Rate(successes, of).low, Rate(successes, of).high):
        assert (root - successes / of) ** 2 == pytest.approx(z**2 * root * (1 - root) / of)
    assert (Rate(0, 0).low, Rate(0, 0).high) == (0.0, 1.0)


def test_mcnemar_by_counting() -> None:
    """Two-sided: twice the smaller tail of a fair coin thrown once for each image on which the two differ."""
    assert Paired(50, 3, 12, 35).p_value == pytest.approx(2 * float(binom.cdf(3, 15, 0.5)))
    assert Paired(5, 4, 4, 0).p_value == 1.0
    assert Paired(5, 0, 0, 5).p_value == 1.0


def test_the_interval_of_a_difference() -> None:
    """Agresti & Min 2005, by hand."""
    paired = Paired(both=10, first=20, second=5, neither=15)
    low, high = paired.interval
    assert paired.difference == pytest.approx(0.3)
    middle = (20.5 - 5.5) / 52
    margin = 1.959964 * math.sqrt(26 - 15**2 / 52) / 52
    assert (low, high) == pytest.approx((middle - margin, middle + margin), abs=1e-6)
    assert math.isnan(Paired(0, 0, 0, 0).difference)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of many samples of 60 images, about 95 % (the method is a little conservative)."""
    import numpy as np  # noqa: PLC0415

    truth = np.array([0.4, 0.25, 0.1, 0.25])
    draws = np.random.default_rng(0).multinomial(60, truth, size=2000)
    intervals = [Paired(*map(int, each)).interval for each in draws]
    covered = np.mean([low <= 0.15 <= high for low, high in intervals])
    assert 0.93 < covered < 0.98

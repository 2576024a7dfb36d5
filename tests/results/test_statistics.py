"""Rates and paired differences against scipy, statsmodels' formulas by hand, and published examples."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from pipeline.results.statistics import Mean, Paired, PairedMeans, Rate, holm, paired


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
    truth = np.array([0.4, 0.25, 0.1, 0.25])
    draws = np.random.default_rng(0).multinomial(60, truth, size=2000)
    intervals = [Paired(*map(int, each)).interval for each in draws]
    covered = np.mean([low <= 0.15 <= high for low, high in intervals])
    assert 0.93 < covered < 0.98


@pytest.mark.parametrize(("successes", "of"), [(0, 7), (3, 7), (7, 7), (123, 1000)])
def test_wilson_is_that_of_statsmodels(successes: int, of: int) -> None:
    assert Rate(successes, of).interval == pytest.approx(proportion_confint(successes, of, method="wilson"), abs=1e-12)


@pytest.mark.parametrize("counts", [(5, 1, 6, 3), (0, 9, 2, 1), (40, 3, 3, 4)])
def test_mcnemar_is_that_of_statsmodels(counts: tuple[int, int, int, int]) -> None:
    both, first, second, neither = counts
    expected = mcnemar([[both, first], [second, neither]], exact=True).pvalue
    assert Paired(*counts).p_value == pytest.approx(expected)


def test_true_and_false_are_counted() -> None:
    one, other = np.array([True, True, True, False, False]), np.array([True, False, False, True, False])
    assert paired(one, other) == Paired(both=1, first=2, second=1, neither=1)


def test_a_bootstrapped_mean_of_many_is_the_normal_one() -> None:
    values = np.random.default_rng(3).exponential(size=4000)
    found, error = Mean.over(values), values.std(ddof=1) / math.sqrt(4000)
    assert found.mean == pytest.approx(values.mean()) and found.of == 4000
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert Mean.over(values) == found


def test_an_interval_of_means_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of skewed samples of 40; BCa is known to reach a little less than 95 % of them."""
    draws = np.random.default_rng(0).exponential(size=(150, 40))
    covered = np.mean([each.low <= 1 <= each.high for each in map(Mean.over, draws)])
    assert 0.88 <= covered <= 0.99


def test_means_of_next_to_nothing() -> None:
    assert math.isnan(Mean.over([]).mean) and Mean.over([]).of == 0
    assert str(Mean.over([])) == "–"
    assert math.isnan(Mean.over([2.0]).low) and str(Mean.over([2.0])) == "2"
    assert (Mean.over([2.0, 2.0]).low, Mean.over([2.0, 2.0]).high) == (2.0, 2.0)


def test_the_permutation_test_by_exchanging_all_pairs() -> None:
    """With few images every exchange is tried; here by hand."""
    one, other = np.array([0.9, 0.4, 0.8, 0.7, 0.3, 0.6]), np.array([0.5, 0.5, 0.2, 0.6, 0.1, 0.65])
    differences = one - other
    means = [np.mean(differences * signs) for signs in product((1, -1), repeat=6)]
    tail = np.mean([mean >= differences.mean() - 1e-12 for mean in means])
    found = PairedMeans.over(one, other)
    assert found.p_value == pytest.approx(2 * tail)
    assert found.difference == pytest.approx(differences.mean())
    assert found.means == pytest.approx((one.mean(), other.mean()))
    assert PairedMeans.over(other, one).p_value == found.p_value


def test_the_same_numbers_do_not_differ() -> None:
    assert PairedMeans.over([1.0, 2.0], [1.0, 2.0]) == PairedMeans(2, (1.5, 1.5), (0.0, 0.0), 1.0)


def test_a_permutation_test_of_nothing_is_uniform() -> None:
    """Where there is no difference, 5 % of the p-values are below 0.05."""
    draws = np.random.default_rng(1).normal(size=(100, 2, 12))
    found = np.array([PairedMeans.over(*each).p_value for each in draws])
    assert np.mean(found < 0.05) <= 0.12
    assert 0.35 < found.mean() < 0.65


def test_holm_by_its_definition() -> None:
    """Holm 1979: the k-th smallest of n times n + 1 - k, none smaller than the one before, none above 1."""
    assert holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []

"""Randomised smoothing: the published formulas, exact risks by enumeration, and a classifier whose radius is known."""

import itertools
from fractions import Fraction
from math import comb
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.support.defenses import draws_for, pictures
from transforms.defenses.grid import parse
from transforms.defenses.randomized import noise
from transforms.defenses.smoothing import Smoothing
from transforms.errors import InputError
from transforms.randomness import Draws


def choices_of(counts: np.ndarray) -> np.ndarray:
    """Votes, (N, classes) that add up to the same for each, as what the samples chose: (samples, N)."""
    return np.stack([np.repeat(np.arange(len(each)), each) for each in counts], axis=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=5), st.sampled_from([0.001, 0.05, 0.2]), st.randoms())
def test_answer_and_radius_are_the_papers(counts: list[int], alpha: float, shuffled: Random) -> None:
    samples = sum(counts)
    if samples < 12:
        return
    found = Smoothing(0.25, samples, alpha).certify(
        choices_of(np.array([counts]))[shuffled.sample(range(samples), samples)]
    )
    first, second = sorted(counts, reverse=True)[:2]
    assert found.predicted.tolist() == [counts.index(first)]
    assert bool(found.abstained) == (stats.binomtest(first, first + second, 0.5).pvalue > alpha)
    bound = stats.binomtest(first, samples).proportion_ci(1 - alpha, method="exact").low
    expected = 0.25 * stats.norm.ppf(bound) if bound > 0.5 else 0
    assert found.radius.item() == pytest.approx(expected, abs=1e-12)
    assert found.radius.item() == 0 or not found.abstained


def test_the_bound_is_where_so_many_votes_are_as_unlikely_as_said() -> None:
    """Clopper & Pearson by their definition: P(90 or more of 100) = alpha / 2 at the bound; in exact arithmetic."""
    radius = Smoothing(1.0, 100, 0.02).certify(choices_of(np.array([[90, 10]]))).radius.item()
    bound = Fraction(stats.norm.cdf(radius))
    tail = sum(comb(100, k) * bound**k * (1 - bound) ** (100 - k) for k in range(90, 101))
    assert float(tail) == pytest.approx(0.01, rel=1e-9)


@pytest.mark.parametrize("samples", [20, 100, 1000])
def test_unanimous_votes(samples: int) -> None:
    """The bound is the samples-th root of alpha / 2."""
    found = Smoothing(0.5, samples, 0.001).certify(np.full((samples, 1), 7))
    assert found.predicted.tolist() == [7] and found.abstained.tolist() == [False]
    assert found.radius.item() == pytest.approx(0.5 * stats.norm.ppf(0.0005 ** (1 / samples)), rel=1e-12)


def test_a_tie_is_an_abstention() -> None:
    found = Smoothing(0.5, 40, 0.05).certify(choices_of(np.array([[0, 20, 20], [20, 0, 20]])))
    assert (found.predicted.tolist(), found.abstained.tolist(), found.radius.tolist()) == ([1, 0], [True] * 2, [0, 0])


@pytest.mark.parametrize(("first", "second", "others"), [(60, 40, 0), (61, 39, 0), (17, 8, 75), (18, 7, 75)])
def test_the_sign_test_decides_whether_to_abstain(first: int, second: int, others: int) -> None:
    """By tables of the two-sided sign test, 39 of 100 and 7 of 25 are significant at 5 %, and one more is not. Other
    classes, with three votes each, do not count."""
    counts = np.array([[*([3] * (others // 3)), first, second]])
    found = Smoothing(0.5, 100, 0.05).certify(choices_of(counts))
    assert found.predicted.tolist() == [others // 3]
    assert found.abstained.tolist() == [(first, second) in {(60, 40), (17, 8)}]


def outcomes(samples: int, classes: int) -> np.ndarray:
    """Every way in which samples can fall into classes: (N, classes)."""
    cuts = itertools.combinations(range(samples + classes - 1), classes - 1)
    return np.array([np.diff([-1, *cut, samples + classes - 1]) - 1 for cut in cuts])


@pytest.mark.parametrize(
    "probabilities",
    [
        *((p, 1 - p) for p in (0.5, 0.51, 0.6, 0.75, 0.9, 0.99)),
        *((p, 1 - p, 0.0) for p in (0.5, 0.55)),
        (0.5, 0.25, 0.25),
        (0.34, 0.33, 0.33),
        (0.49, 0.49, 0.02),
        (0.8, 0.1, 0.1),
    ],
)
@pytest.mark.parametrize(("samples", "alpha"), [(25, 0.1), (30, 0.02), (40, 0.25)])
def test_the_risk_is_alpha(probabilities: tuple[float, ...], samples: int, alpha: float) -> None:
    """Summed over all outcomes: a certificate is wrong if it claims more than sigma * Phi^-1(p), or another class."""
    counts = outcomes(samples, len(probabilities))
    chances = stats.multinomial.pmf(counts, samples, probabilities)
    assert chances.sum() == pytest.approx(1)
    found = Smoothing(1.0, samples, alpha).certify(choices_of(counts))
    radius, predicted = found.radius, found.predicted
    true = np.maximum(stats.norm.ppf(np.array(probabilities)[predicted]), 0)
    assert chances[radius > true].sum() <= alpha
    likeliest = np.array(probabilities)[predicted] == max(probabilities)
    assert chances[~likeliest & ~found.abstained].sum() <= alpha


def test_a_linear_classifier_is_certified_up_to_its_boundary() -> None:
    """Its smoothed form is itself, so that the radius is the distance to the boundary. Through real noisy canvases,
    so grey that they need no clipping, and so noisy that rounding does not matter."""
    sigma, samples, distance = 0.1, 2000, 0.12
    grey = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 8, 8)))
    weight /= weight.norm()
    offset = distance - float((weight * grey[0] / 255).sum())
    defense = parse(f"smoothing:sigma={sigma},samples={samples},alpha=0.001")
    chosen = []
    for number in range(defense.repeats):
        noisy = defense(grey, draws_for(1).at("repeat", number)).double() / 255
        chosen.append((weight * noisy).sum(dim=(1, 2, 3)) + offset > 0)
    assert defense.smoothing is not None
    found = defense.smoothing.certify(torch.stack(chosen).long().numpy())
    assert found.predicted.tolist() == [1] and 0.9 * distance < found.radius.item() <= distance


@pytest.mark.parametrize("distance", [0.02, 0.1, 0.25])
def test_the_radius_tends_to_the_distance(distance: float) -> None:
    drawn = np.random.default_rng(0)
    sigma, radii = 0.1, []
    for samples in (100, 10_000, 1_000_000):
        votes = drawn.binomial(samples, stats.norm.cdf(distance / sigma))
        counts = np.array([[samples - votes, votes]])
        radii.append(Smoothing(sigma, samples, 0.001).certify(choices_of(counts)).radius.item())
    assert max(radii) <= distance and radii == sorted(radii)
    assert radii[-1] > 0.97 * distance


def test_smoothing_is_noise_that_is_counted() -> None:
    canvases, defense = pictures(16), parse("smoothing:sigma=1/4,samples=100,alpha=0.001")
    drawn = draws_for(2).at("repeat", 3)
    assert defense.name == "smoothing:sigma=0.25,samples=100,alpha=0.001"
    assert torch.equal(defense(canvases, drawn), noise(canvases, drawn.at("filter", 0), sigma=0.25))
    assert (defense.random, defense.repeats, defense.smoothing) == (True, 100, Smoothing(0.25, 100, 0.001))
    behind = parse("smoothing:sigma=1/4,samples=100,alpha=0.001+blur:sigma=1")
    assert behind.smoothing == defense.smoothing and behind.repeats == 100
    assert parse("noise:sigma=0.1,repeats=3").smoothing is None and parse("none").smoothing is None


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("smoothing:sigma=0,samples=100,alpha=0.001", "smoothing: sigma 0.0 is not in (0, 1], the range of a pixel"),
        ("smoothing:sigma=0.1,samples=100,alpha=1", "smoothing: alpha 1.0 is not in (0, 1)"),
        ("smoothing:sigma=0.1,samples=10,alpha=0.001", "smoothing: 10 samples tell nothing at alpha 0.001; 11 do"),
    ],
)
def test_what_is_refused(written: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(written)(pictures(4, count=1), Draws(0, "", [""]))
    assert str(caught.value) == message


def test_the_least_samples_tell_something() -> None:
    found = Smoothing(0.1, 11, 0.001).certify(np.zeros((11, 1), np.int64))
    assert not found.abstained and found.radius.item() > 0

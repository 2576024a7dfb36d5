"""Balls: integer arithmetic and NumPy as the oracles of projection and rounding."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from transforms.attacks.balls import L2Ball, LinfBall
from transforms.attacks.randomness import Draws

SHAPE = (2, 3, 4, 5)
SIZE = math.prod(SHAPE[1:])

levels = st.integers(1, 254).map(lambda k: Fraction(k, 255))
seeds = st.integers(0, 2**32 - 1)
# Denominators are bounded so that a budget in grey levels, squared too, is a whole number or clearly is not.
linf_budgets = levels | st.fractions(Fraction(1, 255), Fraction(254, 255), max_denominator=500)
l2_budgets = linf_budgets | st.fractions(1, 8, max_denominator=500)
ways = st.sampled_from(["noise", "extremes", "black", "white", "grey"])


def make_canvases(rng: np.random.Generator, way: str) -> Tensor:
    made = {
        "noise": lambda: rng.integers(0, 256, SHAPE),
        "extremes": lambda: rng.choice([0, 1, 254, 255], SHAPE),
        "black": lambda: np.zeros(SHAPE),
        "white": lambda: np.full(SHAPE, 255),
        "grey": lambda: np.full(SHAPE, 128),
    }[way]()
    return torch.from_numpy(made.astype(np.uint8))


def inside_box(canvases: Tensor, perturbation: np.ndarray) -> Tensor:
    clean = canvases.float() / 255
    return (clean + torch.from_numpy(perturbation.astype(np.float32))).clamp(0, 1)


def difference(after: Tensor, before: Tensor) -> np.ndarray:
    assert after.dtype == torch.uint8 and after.shape == before.shape
    return after.numpy().astype(np.int64) - before.numpy().astype(np.int64)


@settings(max_examples=300, deadline=None)
@given(linf_budgets, seeds, ways)
def test_linf_grid(eps: Fraction, seed: int, way: str) -> None:
    rng = np.random.default_rng(seed)
    canvases = make_canvases(rng, way)
    # Attacks sit on the ball's surface mostly.
    perturbation = np.clip(rng.uniform(-2, 2, SHAPE), -1, 1) * float(eps)
    adversarial = inside_box(canvases, perturbation)
    stored = LinfBall(float(eps)).to_grid(canvases, adversarial)
    changed = difference(stored, canvases)
    assert abs(changed).max() <= eps * 255
    budget = math.floor(eps * 255)
    clean = canvases.numpy().astype(np.int64)
    rounded = np.rint(adversarial.numpy() * np.float32(255)).astype(np.int64)
    assert np.array_equal(clean + changed, np.clip(rounded, clean - budget, clean + budget))


def test_every_budget_in_grey_levels_is_spent_in_full() -> None:
    """Also where k/255 was typed as a decimal; but what is clearly less does not reach the level."""
    canvases = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16).contiguous()
    clean = canvases.numpy().astype(np.int64)
    for k in range(1, 255):
        for sign in (-1, 1):
            adversarial = (canvases.double() / 255 + sign * k / 255).clamp(0, 1).float()
            spent = LinfBall(k / 255).to_grid(canvases, adversarial).numpy()
            assert np.array_equal(spent, np.clip(clean + sign * k, 0, 255))
            typed = LinfBall(float(f"{k / 255:.12g}")).to_grid(canvases, adversarial).numpy()
            assert np.array_equal(typed, spent)
            less = LinfBall((k - 1e-6) / 255).to_grid(canvases, adversarial).numpy()
            assert np.array_equal(less, np.clip(clean + sign * (k - 1), 0, 255))


@settings(max_examples=300, deadline=None)
@given(l2_budgets, seeds, ways, st.sampled_from([1.0, 0.999, 0.5]), st.integers(1, SIZE))
def test_l2_grid(eps: Fraction, seed: int, way: str, radius: float, support: int) -> None:
    rng = np.random.default_rng(seed)
    canvases = make_canvases(rng, way)
    perturbation = rng.normal(size=(SHAPE[0], SIZE))
    perturbation[:, rng.permutation(SIZE)[support:]] = 0
    perturbation *= radius * float(eps) / np.linalg.norm(perturbation, axis=1, keepdims=True)
    adversarial = inside_box(canvases, perturbation.reshape(SHAPE))
    stored = L2Ball(float(eps)).to_grid(canvases, adversarial)
    changed = difference(stored, canvases).reshape(SHAPE[0], -1)
    assert (changed**2).sum(1).max() <= (eps * 255) ** 2
    # Nothing moves by a level or more, and where rounding alone fits, it is rounding alone.
    exact = (adversarial.numpy().astype(np.float64) * 255 - canvases.numpy()).reshape(SHAPE[0], -1)
    assert abs(changed - exact).max() < 1
    rounded = np.rint(exact)
    clear = abs(abs(exact - np.trunc(exact)) - 0.5) > 1e-4
    for one in range(SHAPE[0]):
        if (rounded[one] ** 2).sum() <= (eps * 255) ** 2:
            assert np.array_equal(changed[one][clear[one]], rounded[one][clear[one]])


def test_l2_rounding_undoes_the_least_it_can() -> None:
    """Four values of 1.5, 1.6, 1.7 and 1.8 levels (norm 3.31): 2² * 4 is 16 > 10.96, and undoing two gives 10."""
    canvases = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
    exact = torch.tensor([1.51, 1.6, 1.7, 1.8]).view(1, 1, 2, 2)
    stored = L2Ball(math.sqrt(10.97) / 255).to_grid(canvases, (100 + exact) / 255)
    assert (stored.int() - 100).flatten().tolist() == [1, 1, 2, 2]
    stored = L2Ball(math.sqrt(13.5) / 255).to_grid(canvases, (100 + exact) / 255)
    assert (stored.int() - 100).flatten().tolist() == [1, 2, 2, 2]


def test_l2_grid_where_single_precision_cannot_tell_inside_from_outside() -> None:
    """50 values changed by 255 levels have a squared norm of 3,251,250: a thousandth more than this budget."""
    canvases = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    adversarial = torch.zeros(1, 3, 8, 8)
    adversarial.view(-1)[:50] = 1
    eps = math.sqrt(50 * 255**2 - 1e-3) / 255
    ball = L2Ball(eps)
    assert torch.equal(ball.project(adversarial), adversarial)
    stored = ball.to_grid(canvases, adversarial)
    assert (difference(stored, canvases) ** 2).sum() < 50 * 255**2
    assert abs(difference(stored, canvases) - adversarial.numpy() * 255).max() <= 1


def test_a_batch_on_the_grid_is_its_images_one_by_one() -> None:
    rng = np.random.default_rng(0)
    canvases = make_canvases(rng, "noise")
    for ball in (LinfBall(7 / 255), L2Ball(0.5)):
        adversarial = inside_box(canvases, ball.project(torch.from_numpy(rng.normal(size=SHAPE)).float()).numpy())
        batch = ball.to_grid(canvases, adversarial)
        alone = [ball.to_grid(canvases[[one]], adversarial[[one]]) for one in range(SHAPE[0])]
        assert torch.equal(batch, torch.cat(alone))


@settings(max_examples=100, deadline=None)
@given(st.floats(1 / 255, 8), seeds, st.floats(1e-3, 1e3))
def test_projection_is_numpys(eps: float, seed: int, scale: float) -> None:
    perturbation = np.random.default_rng(seed).normal(size=SHAPE) * scale
    given_ = torch.from_numpy(perturbation)
    assert np.array_equal(LinfBall(eps).project(given_).numpy(), np.clip(perturbation, -eps, eps))
    projected = L2Ball(eps).project(given_).numpy()
    for one in range(SHAPE[0]):
        norm = np.linalg.norm(perturbation[one])
        expected = perturbation[one] * min(1, eps / norm)
        assert np.allclose(projected[one], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("ball", [LinfBall(8 / 255), L2Ball(0.5)])
def test_projection_leaves_alone_what_is_inside(ball: LinfBall | L2Ball) -> None:
    inside = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, SHAPE)).float() * ball.eps / math.sqrt(SIZE)
    assert torch.equal(ball.project(inside), inside)
    assert torch.equal(ball.project(torch.zeros(SHAPE)), torch.zeros(SHAPE))
    assert torch.equal(ball.project(ball.project(100 * inside)), ball.project(100 * inside))


def test_projection_treats_each_image_alone() -> None:
    perturbation = torch.zeros(2, 3, 1, 1)
    perturbation[0], perturbation[1] = 0.1, 100
    projected = L2Ball(1.0).project(perturbation)
    assert torch.equal(projected[0], perturbation[0])
    assert torch.allclose(projected[1], torch.tensor(1 / math.sqrt(3)))


# Single precision: from numbers whose squares vanish to numbers whose squares overflow.
@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e-22, 1e-10, 1, 1e10, 1e25, 1e37])
def test_direction(scale: float) -> None:
    gradient = (torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, SHAPE)) * scale).float()
    gradient[:, 0, 0, 0] = 0
    assert np.array_equal(LinfBall(0.1).direction(gradient).numpy(), np.sign(gradient.numpy()))
    exact = gradient.double().flatten(1).numpy()
    expected = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.allclose(L2Ball(0.1).direction(gradient).flatten(1).numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ball", [LinfBall(8 / 255), L2Ball(0.5)])
def test_a_zero_gradient_has_no_direction(ball: LinfBall | L2Ball) -> None:
    gradient = torch.zeros(SHAPE)
    gradient[1] = 1
    direction = ball.direction(gradient)
    assert torch.equal(direction[0], torch.zeros(SHAPE[1:]))
    assert torch.equal(direction[1], ball.direction(gradient[1:])[0]) and direction[1].min() > 0


IMAGES = [f"image {number}" for number in range(1000)]


def test_linf_start_is_uniform_in_the_cube() -> None:
    eps = 8 / 255
    start = LinfBall(eps).start(torch.zeros(1000, 3, 2, 2, dtype=torch.uint8), Draws(0, "pgd", IMAGES), restart=0)
    assert start.shape == (1000, 3, 2, 2) and start.abs().max() <= np.float32(eps)
    assert stats.kstest(start.flatten().numpy() / eps, stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_l2_start_is_uniform_in_the_ball() -> None:
    """In d dimensions the d-th power of the radius is uniform; a coordinate of a direction in 3 dimensions is, too."""
    start = L2Ball(0.5).start(torch.zeros(1000, 3, 1, 1, dtype=torch.uint8), Draws(0, "pgd", IMAGES), restart=0)
    norms = start.double().flatten(1).norm(dim=1)
    assert norms.max() <= 0.5 * (1 + 1e-6)
    assert stats.kstest((norms.numpy() / 0.5) ** 3, stats.uniform.cdf).pvalue > 1e-4
    for coordinate in (start.double().flatten(1) / norms[:, None]).T:
        assert stats.kstest(coordinate.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-4


@pytest.mark.parametrize("ball", [LinfBall(8 / 255), L2Ball(0.5)])
def test_restarts_begin_elsewhere(ball: LinfBall | L2Ball) -> None:
    canvases = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    draws = Draws(0, "pgd", ["a", "b"])
    first, again, second = (ball.start(canvases, draws, restart) for restart in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first == second).sum() <= 1
    if isinstance(ball, L2Ball):  # at another radius, too
        assert (first.flatten(1).norm(dim=1) - second.flatten(1).norm(dim=1)).abs().min() > 1e-5

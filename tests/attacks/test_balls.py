"""Balls: integer arithmetic, convex optimisation and NumPy as the oracles of projection and rounding."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from tests.support.attacks import Box, furthest, nearest
from transforms.attacks.balls import BALLS, Ball, L1Ball, L2Ball, LinfBall
from transforms.randomness import Draws

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
    exact = (adversarial.numpy().astype(np.float64) * 255 - canvases.numpy()).reshape(SHAPE[0], -1)
    goes_the_same_way(changed, exact, lambda each: float(np.linalg.norm(each)))


def goes_the_same_way(changed: np.ndarray, exact: np.ndarray, norm: Callable[[np.ndarray], float]) -> None:
    """A rounded perturbation has the signs of the exact one, no value overtakes another by more than a level, and it
    is not longer, unless by rounding alone."""
    assert (changed * np.sign(exact) >= 0).all()
    for one, whole in zip(changed, exact, strict=True):
        free = ~at_an_end(one, whole)
        kept = abs(one)[free][np.argsort(abs(whole)[free], kind="stable")]
        assert (np.maximum.accumulate(kept) - kept <= 1).all()
        assert norm(one) <= norm(whole) * (1 + 1e-9) + 1e-6 or abs(one - whole).max() < 1


def at_an_end(changed: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Values that the box may have stopped."""
    return abs(changed) < np.floor(abs(exact) + 1e-3)


def test_a_perturbation_below_half_a_level_is_not_lost() -> None:
    """Rounding each value alone would leave nothing; here its largest values are kept, in whole levels, within 5 % of
    its length."""
    rng = np.random.default_rng(0)
    canvases = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    exact = np.clip(rng.normal(size=(2, 3, 32, 32)) / 10, -0.49, 0.49)
    adversarial = (canvases.double() + torch.from_numpy(exact)).float() / 255
    for ball, norm in ((L2Ball(1.0), 2), (L1Ball(100.0), 1)):
        changed = difference(ball.to_grid(canvases, adversarial), canvases)
        for one, whole in zip(changed.reshape(2, -1), exact.reshape(2, -1), strict=True):
            assert 0.95 < np.linalg.norm(one, norm) / np.linalg.norm(whole, norm) <= 1 + 1e-6
            kept = abs(whole)[one != 0]
            assert kept.min() > abs(whole)[one == 0].max() - 1e-4
            assert (np.sign(one)[one != 0] == np.sign(whole)[one != 0]).all()


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
    assert torch.equal(ball.project(adversarial, torch.zeros(1, 3, 8, 8)), adversarial)
    stored = ball.to_grid(canvases, adversarial)
    assert (difference(stored, canvases) ** 2).sum() < 50 * 255**2
    assert abs(difference(stored, canvases) - adversarial.numpy() * 255).max() <= 1


@settings(max_examples=300, deadline=None)
@given(
    st.fractions(Fraction(1, 255), 40, max_denominator=500),
    seeds,
    ways,
    st.sampled_from([1.0, 0.999, 0.5, 1.3]),
    st.integers(1, SIZE),
)
def test_l1_grid(eps: Fraction, seed: int, way: str, radius: float, support: int) -> None:
    rng = np.random.default_rng(seed)
    canvases = make_canvases(rng, way)
    perturbation = rng.normal(size=(SHAPE[0], SIZE))
    perturbation[:, rng.permutation(SIZE)[support:]] = 0
    perturbation *= radius * float(eps) / abs(perturbation).sum(axis=1, keepdims=True)
    adversarial = inside_box(canvases, perturbation.reshape(SHAPE))
    changed = difference(L1Ball(float(eps)).to_grid(canvases, adversarial), canvases).reshape(SHAPE[0], -1)
    assert abs(changed).sum(1).max() <= eps * 255
    exact = (adversarial.numpy().astype(np.float64) * 255 - canvases.numpy()).reshape(SHAPE[0], -1)
    exact *= np.minimum(1, float(eps) * 255 / np.maximum(abs(exact).sum(1, keepdims=True), 1e-9))
    goes_the_same_way(changed, exact, lambda values: float(abs(values).sum()))


def test_a_batch_on_the_grid_is_its_images_one_by_one() -> None:
    rng = np.random.default_rng(0)
    canvases = make_canvases(rng, "noise")
    for ball in (LinfBall(7 / 255), L2Ball(0.5), L1Ball(3.0)):
        projected = ball.project(torch.from_numpy(rng.normal(size=SHAPE)).float(), canvases.float() / 255)
        adversarial = inside_box(canvases, projected.numpy())
        batch = ball.to_grid(canvases, adversarial)
        alone = [ball.to_grid(canvases[[one]], adversarial[[one]]) for one in range(SHAPE[0])]
        assert torch.equal(batch, torch.cat(alone))


# Projection ----------------------------------------------------------------------------------------------------------


def cases(rng: np.random.Generator, way: str) -> tuple[Tensor, Box]:
    """Clean canvases, double precision, with the box that they leave to a perturbation."""
    clean = make_canvases(rng, way).double() / 255
    values = clean.flatten(1).numpy()
    return clean, (-values, 1 - values)


ball_kinds = pytest.mark.parametrize("norm", list(BALLS))
projected_budgets = st.floats(1 / 255, 8)


@ball_kinds
@settings(max_examples=100, deadline=None)
@given(projected_budgets, seeds, ways, st.floats(1e-3, 1e2))
def test_projection_is_the_nearest(norm: str, eps: float, seed: int, way: str, scale: float) -> None:
    """Equal to the root found by scipy, and no point of the (convex) set lies beyond it as seen from what was given:
    <wanted - nearest, any - nearest> <= 0, which holds for the nearest point alone."""
    rng = np.random.default_rng(seed)
    clean, (low, high) = cases(rng, way)
    wanted = rng.normal(size=SHAPE) * scale
    found = BALLS[norm](eps).project(torch.from_numpy(wanted), clean).flatten(1).numpy()
    for one, each in enumerate(wanted.reshape(SHAPE[0], -1)):
        box = low[one], high[one]
        assert np.allclose(found[one], nearest(norm, each, eps, box), atol=1e-6 * max(1, scale))
        assert (found[one] >= low[one]).all() and (found[one] <= high[one]).all()
        assert np.linalg.norm(found[one], {"linf": np.inf, "l2": 2, "l1": 1}[norm]) <= eps * (1 + 1e-9)
        away = each - found[one]
        assert away @ (furthest(norm, away, eps, box) - found[one]) <= 1e-6 * (1 + abs(away).sum())


@ball_kinds
def test_projection_is_what_a_general_solver_finds(norm: str) -> None:
    """SLSQP knows nothing of balls: |x| as the difference of two positive parts, where it has corners."""
    rng, eps = np.random.default_rng(0), 0.7
    for _ in range(5):
        clean = rng.choice([0, 0.02, 0.5, 0.97, 1], size=8)
        wanted = rng.normal(size=8)
        parts = [(0, 1 - each) for each in clean] + [(0, each) for each in clean]

        def of(both: np.ndarray) -> np.ndarray:
            return both[:8] - both[8:]

        limits = {
            "linf": [{"type": "ineq", "fun": lambda both: eps - both}],
            "l2": [{"type": "ineq", "fun": lambda both: eps**2 - of(both) @ of(both)}],
            "l1": [{"type": "ineq", "fun": lambda both: eps - both.sum()}],
        }[norm]
        solved = optimize.minimize(
            lambda both, wanted=wanted: ((of(both) - wanted) ** 2).sum(),
            np.full(16, 1e-3),
            bounds=parts,
            constraints=limits,
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        given_ = torch.from_numpy(wanted).view(1, 1, 2, 4), torch.from_numpy(clean).view(1, 1, 2, 4)
        found = BALLS[norm](eps).project(*given_).flatten().numpy()
        assert np.allclose(found, of(solved.x), atol=1e-4)


@ball_kinds
@settings(max_examples=30, deadline=None)
@given(seeds, ways)
def test_projection_in_single_precision(norm: str, seed: int, way: str) -> None:
    """As attacks use it: steps a little out of the ball; the result is inside to a few last bits."""
    rng = np.random.default_rng(seed)
    clean, _ = cases(rng, way)
    eps = {"linf": 8 / 255, "l2": 0.5, "l1": 3.0}[norm]
    wanted = rng.normal(size=SHAPE) * eps / 4
    ball = BALLS[norm](eps)
    found = ball.project(torch.from_numpy(wanted).float(), clean.float())
    assert np.allclose(found, ball.project(torch.from_numpy(wanted), clean), atol=1e-6)
    assert (ball.length(found) <= eps * (1 + 1e-6)).all()
    adversarial = clean.float() + found
    assert adversarial.min() >= 0 and adversarial.max() <= 1


@pytest.mark.parametrize("ball", [LinfBall(8 / 255), L2Ball(0.5), L1Ball(3.0)])
def test_projection_leaves_alone_what_is_inside(ball: Ball) -> None:
    grey = torch.full(SHAPE, 0.5)
    unit = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, SHAPE)).float()
    inside = unit * ball.eps / {"linf": 1, "l2": math.sqrt(SIZE), "l1": SIZE}[ball.norm]
    assert torch.equal(ball.project(inside, grey), inside)
    assert torch.equal(ball.project(torch.zeros(SHAPE), grey), torch.zeros(SHAPE))
    once = ball.project(100 * inside, grey)
    assert torch.allclose(ball.project(once, grey), once, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ball", [LinfBall(8 / 255), L2Ball(0.5), L1Ball(3.0)])
def test_projection_treats_each_image_alone(ball: Ball) -> None:
    """Bit for bit, beside images that are inside, outside, or stopped by the box."""
    rng = np.random.default_rng(1)
    clean = torch.from_numpy(rng.choice([0, 0.3, 1], size=(6, 3, 4, 5))).float()
    wanted = torch.from_numpy(rng.normal(size=(6, 3, 4, 5)) * np.logspace(-4, 1, 6)[:, None, None, None]).float()
    together = ball.project(wanted, clean)
    for one in range(6):
        assert torch.equal(together[[one]], ball.project(wanted[[one]], clean[[one]]))


# Steps ---------------------------------------------------------------------------------------------------------------

GREY = torch.full(SHAPE, 0.5)


# Single precision: from numbers whose squares vanish to numbers whose squares overflow.
@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-30, 1e-22, 1e-10, 1, 1e10, 1e25, 1e37])
def test_direction(scale: float) -> None:
    gradient = (torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, SHAPE)) * scale).float()
    gradient[:, 0, 0, 0] = 0
    assert np.array_equal(LinfBall(0.1).direction(gradient, GREY).numpy(), np.sign(gradient.numpy()))
    exact = gradient.double().flatten(1).numpy()
    expected = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.allclose(L2Ball(0.1).direction(gradient, GREY).flatten(1).numpy(), expected, rtol=1e-5, atol=1e-7)
    found = L1Ball(0.1).direction(gradient, GREY).flatten(1).numpy()
    for one in range(SHAPE[0]):  # a hundredth of 60 values is one value
        place = abs(exact[one]).argmax()
        assert found[one, place] == np.sign(exact[one, place]) and abs(found[one]).sum() == 1


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_l1_direction_moves_the_hundredth_part_that_can_move(seed: int) -> None:
    """By sorting in NumPy; values at an end of the range that would leave it are passed over."""
    rng = np.random.default_rng(seed)
    adversarial = rng.choice([0, 0.4, 1], size=(2, 3, 10, 15))
    gradient = rng.permutation(900).reshape(2, 3, 10, 15) - 449.6  # no two alike
    found = L1Ball(1.0).direction(torch.from_numpy(gradient), torch.from_numpy(adversarial)).flatten(1).numpy()
    for one in range(2):
        slope, place = gradient[one].ravel(), adversarial[one].ravel()
        useful = np.where(((slope > 0) & (place < 1)) | ((slope < 0) & (place > 0)), abs(slope), 0)
        chosen = np.argsort(-useful)[:4]  # of 450 values
        expected = np.zeros(450)
        expected[chosen] = np.sign(slope[chosen]) / 4
        assert np.allclose(found[one], expected)


def test_l1_moves_fewer_where_fewer_can() -> None:
    gradient, adversarial = torch.ones(1, 3, 20, 20), torch.ones(1, 3, 20, 20)
    assert L1Ball(1.0).direction(gradient, adversarial).abs().sum() == 0
    adversarial[0, 1, 2, 3] = 0.5
    found = L1Ball(1.0).direction(gradient, adversarial)
    assert found[0, 1, 2, 3] == 1 and found.sum() == 1


@pytest.mark.parametrize("ball", [LinfBall(8 / 255), L2Ball(0.5), L1Ball(1.0)])
def test_a_zero_gradient_has_no_direction(ball: Ball) -> None:
    gradient = torch.zeros(SHAPE)
    gradient[1] = 1
    direction = ball.direction(gradient, GREY)
    assert torch.equal(direction[0], torch.zeros(SHAPE[1:]))
    assert torch.equal(direction[1], ball.direction(gradient[1:], GREY[1:])[0]) and direction[1].max() > 0


@ball_kinds
def test_a_direction_has_norm_one(norm: str) -> None:
    gradient = torch.from_numpy(np.random.default_rng(3).normal(size=(4, 3, 20, 20)) * 1e-9).float()
    ball = BALLS[norm](1.0)
    assert torch.allclose(ball.length(ball.direction(gradient, torch.full_like(gradient, 0.5))), torch.ones(4))


@ball_kinds
@pytest.mark.parametrize("count", [1, 60, 150528])
def test_a_length_spread_over_all_values_has_that_norm(norm: str, count: int) -> None:
    ball = BALLS[norm](1.0)
    even = torch.full((1, 1, 1, count), ball.spread(0.7, count), dtype=torch.float64)
    assert ball.length(even).item() == pytest.approx(0.7)


# Starts --------------------------------------------------------------------------------------------------------------

IMAGES = [f"image {number}" for number in range(1000)]


def test_linf_start_is_uniform_in_the_cube() -> None:
    eps = 8 / 255
    start = LinfBall(eps).start(torch.zeros(1000, 3, 2, 2, dtype=torch.uint8), Draws(0, "pgd", IMAGES))
    assert start.shape == (1000, 3, 2, 2) and start.abs().max() <= np.float32(eps)
    assert stats.kstest(start.flatten().numpy() / eps, stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_l2_start_is_uniform_in_the_ball() -> None:
    """In d dimensions the d-th power of the radius is uniform; a coordinate of a direction in 3 dimensions is, too."""
    start = L2Ball(0.5).start(torch.zeros(1000, 3, 1, 1, dtype=torch.uint8), Draws(0, "pgd", IMAGES))
    norms = start.double().flatten(1).norm(dim=1)
    assert norms.max() <= 0.5 * (1 + 1e-6)
    assert stats.kstest((norms.numpy() / 0.5) ** 3, stats.uniform.cdf).pvalue > 1e-4
    for coordinate in (start.double().flatten(1) / norms[:, None]).T:
        assert stats.kstest(coordinate.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_l1_start_is_uniform_in_the_ball() -> None:
    """The third power of the radius is uniform, each sign fair, and a share of the radius has the density 2 (1 - s)
    of a coordinate of the simplex in 3 dimensions."""
    start = L1Ball(0.5).start(torch.zeros(1000, 3, 1, 1, dtype=torch.uint8), Draws(0, "pgd", IMAGES))
    values = start.double().flatten(1)
    norms = values.abs().sum(dim=1, keepdim=True)
    assert norms.max() <= 0.5 * (1 + 1e-6)
    assert stats.kstest((norms.flatten().numpy() / 0.5) ** 3, stats.uniform.cdf).pvalue > 1e-4
    for coordinate in (values.abs() / norms).T:
        assert stats.kstest(coordinate.numpy(), stats.beta(1, 2).cdf).pvalue > 1e-4
    signs = (values > 0).long() @ torch.tensor([1, 2, 4])
    assert stats.chisquare(torch.bincount(signs, minlength=8).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("ball", [LinfBall(8 / 255), L2Ball(0.5), L1Ball(3.0)])
def test_restarts_begin_elsewhere(ball: Ball) -> None:
    canvases = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    draws = Draws(0, "pgd", ["a", "b"])
    first, again, second = (ball.start(canvases, draws.at("restart", restart)) for restart in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first == second).sum() <= 1
    if not isinstance(ball, LinfBall):  # at another radius, too
        assert (ball.length(first) - ball.length(second)).abs().min() > 1e-5

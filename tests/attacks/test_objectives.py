"""Objectives: numbers worked out by hand or in NumPy, their gradients, and when a goal is reached."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transforms.attacks.objectives import (
    OBJECTIVES,
    Goal,
    calibrated_cross_entropy,
    cross_entropy,
    dlr,
    logit,
    margin,
)

LOGITS = torch.tensor([[3.0, 1.0, 2.0, -1.0], [0.5, 4.0, 1.0, 2.0]], dtype=torch.float64)
UNTARGETED = Goal(torch.tensor([0, 2]))
TARGETED = Goal(torch.tensor([0, 2]), torch.tensor([3, 1]))
seeds = st.integers(0, 2**32 - 1)


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - np.log(np.exp(row).sum())


def test_goal() -> None:
    logits = torch.tensor([[3.0, 1, 2], [3.0, 1, 2], [0.0, 1, 0]])
    assert Goal(torch.tensor([0, 1, 1])).reached(logits).tolist() == [False, True, False]
    targets = torch.tensor([0, 2, 0])
    assert Goal(torch.tensor([1, 1, 1]), targets).reached(logits).tolist() == [True, False, False]


def test_cross_entropy_by_hand() -> None:
    rows = LOGITS.numpy()
    assert cross_entropy(LOGITS, UNTARGETED).tolist() == pytest.approx(
        [-log_softmax(rows[0])[0], -log_softmax(rows[1])[2]]
    )
    assert cross_entropy(LOGITS, TARGETED).tolist() == pytest.approx([log_softmax(rows[0])[3], log_softmax(rows[1])[1]])


def test_logit_by_hand() -> None:
    assert logit(LOGITS, UNTARGETED).tolist() == [-3, -1]
    assert logit(LOGITS, TARGETED).tolist() == [-1, 4]


def test_margin_by_hand() -> None:
    """3 leads 2; 4 leads 1. Wanted: -1 behind 3; 4 before 2."""
    assert margin(LOGITS, UNTARGETED).tolist() == [-1, 3]
    assert margin(LOGITS, TARGETED).tolist() == [-4, 2]


def test_dlr_by_hand() -> None:
    """Croce & Hein 2020: -(z_y - max other) / (z_1st - z_3rd), and -(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2)."""
    assert dlr(LOGITS, UNTARGETED).tolist() == pytest.approx([-(3 - 2) / (3 - 1), -(1 - 4) / (4 - 1)])
    expected = [-(3 + 1) / (3 - (1 - 1) / 2), -(1 - 4) / (4 - (1 + 0.5) / 2)]
    assert dlr(LOGITS, TARGETED).tolist() == pytest.approx(expected)


def test_calibrated_cross_entropy_by_hand() -> None:
    """Logits over the lead of the largest: 1 in the first row, 2 in the second."""
    rows = LOGITS.numpy() / np.array([[1.0], [2.0]])
    found = calibrated_cross_entropy(LOGITS, TARGETED).tolist()
    assert found == pytest.approx([log_softmax(rows[0])[3], log_softmax(rows[1])[1]])
    found = calibrated_cross_entropy(LOGITS, UNTARGETED).tolist()
    assert found == pytest.approx([-log_softmax(rows[0])[0], -log_softmax(rows[1])[2]])


def test_the_calibration_is_a_constant_for_the_gradient() -> None:
    """Softmax minus one-hot, over the lead; were the lead differentiated, too, the two largest would differ."""
    logits = LOGITS.clone().requires_grad_()
    (found,) = torch.autograd.grad(calibrated_cross_entropy(logits, TARGETED).sum(), logits)
    for row, target, lead in ((0, 3, 1.0), (1, 1, 2.0)):
        expected = -np.exp(log_softmax(LOGITS[row].numpy() / lead)) / lead
        expected[target] += 1 / lead
        assert np.allclose(found[row], expected)


@pytest.mark.parametrize("goal", [UNTARGETED, TARGETED], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tie_of_the_two_largest_has_a_finite_gradient(goal: Goal, dtype: torch.dtype) -> None:
    """Logits of a reduced precision are often equal."""
    logits = torch.tensor([[5.0, 5.0, 1.0, 0.0], [2.0, 7.0, 7.0, 1.0]], dtype=dtype).float().requires_grad_()
    values = calibrated_cross_entropy(logits, goal)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert values.isfinite().all() and gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("targeted", [False, True])
@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_larger_is_better_for_the_attacker(name: str, targeted: bool, seed: int) -> None:
    """A step along the gradient lowers the true class or raises the wanted one, and raises the objective; each image's
    value depends on its own logits alone."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(3, 6)) * 3).requires_grad_()
    labels = torch.from_numpy(rng.integers(0, 6, 3))
    goal = Goal(labels, (labels + 1) % 6 if targeted else None)
    value = OBJECTIVES[name](logits, goal)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    picked = labels if goal.targets is None else goal.targets
    along = gradient.gather(1, picked[:, None]).squeeze(1)
    if name != "dlr":  # whose denominator the wanted class may be part of
        assert (along >= 0).all() if targeted else (along <= 0).all()
    if name != "logit-margin":  # whose gradient takes the lead for a constant
        assert (OBJECTIVES[name](logits + 1e-6 * gradient, goal) >= value).all()
    for one in range(3):
        alone = Goal(labels[[one]], None if goal.targets is None else goal.targets[[one]])
        assert torch.equal(OBJECTIVES[name](logits[[one]], alone), value[[one]])


@settings(max_examples=50, deadline=None)
@given(seeds, st.booleans())
def test_margin_is_positive_exactly_at_the_goal(seed: int, targeted: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(8, 4)))
    labels = torch.from_numpy(rng.integers(0, 4, 8))
    goal = Goal(labels, (labels + 2) % 4 if targeted else None)
    assert torch.equal(margin(logits, goal) > 0, goal.reached(logits))


@pytest.mark.parametrize("goal", [UNTARGETED, TARGETED], ids=["untargeted", "targeted"])
def test_dlr_does_not_feel_scale_nor_shift(goal: Goal) -> None:
    def moved(logits: Tensor) -> Tensor:
        return 1000 * logits + 17

    assert torch.allclose(dlr(moved(LOGITS), goal), dlr(LOGITS, goal))


@pytest.mark.parametrize("name", ["logit", "margin", "dlr", "logit-margin"])
def test_objectives_that_do_not_vanish(name: str) -> None:
    """Where a model is so sure that the cross-entropy's gradient is zero in single precision."""
    logits = torch.tensor([[200.0, 0.0, 1.0, 2.0]], requires_grad=True)
    goal = Goal(torch.tensor([0]))
    (gradient,) = torch.autograd.grad(OBJECTIVES[name](logits, goal).sum(), logits)
    assert gradient.abs().max() > 1e-3
    (vanished,) = torch.autograd.grad(cross_entropy(logits, goal).sum(), logits)
    assert vanished.abs().max() == 0


@pytest.mark.parametrize(("target", "flat"), [(None, True), (0, False), (2, False)])
def test_dlr_has_no_gradient_where_the_truth_ranks_third(target: int | None, flat: bool) -> None:
    """Without a target, numerator and denominator are one difference (auto-attack's issue 108); the image is fooled."""
    logits = torch.tensor([[3.0, 2.0, 5.0, 1.0]], requires_grad=True)
    goal = Goal(torch.tensor([1]), None if target is None else torch.tensor([target]))
    value = dlr(logits, goal)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert (gradient.abs().max().item() < 1e-6) == flat
    assert not flat or (value.item() == pytest.approx(1) and bool(goal.reached(logits)))

"""Shared by minimal-norm drivers: the smallest perturbation so far, and how it survives rounding to 8 bits."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from transforms.attacks.balls import Ball, L2Ball
from transforms.attacks.drivers.shared import on_grid
from transforms.attacks.objectives import Goal, Objective
from transforms.attacks.per_image import per_image, where
from transforms.attacks.protocol import Batch, Found
from transforms.attacks.surrogates import Surrogates

_DOUBLINGS = 9
_HALVINGS = 5
SETTLING = _DOUBLINGS + _HALVINGS
"""Forward passes that `settle` takes at most."""


@dataclass
class Best:
    """The smallest adversarial perturbation found so far, regardless of the budget.

    Attributes:
        perturbation: float (B, 3, S, S); zero where none was found.
        norms: float (B,); infinite where none was found.
    """

    perturbation: Tensor
    norms: Tensor

    @classmethod
    def none(cls, clean: Tensor) -> "Best":
        return cls(torch.zeros_like(clean), torch.full((len(clean),), torch.inf, device=clean.device))

    def offer(self, perturbation: Tensor, norms: Tensor, reached: Tensor) -> None:
        """Takes a perturbation where it reaches the goal, bool (B,), and is smaller."""
        better = reached & (norms < self.norms)
        self.perturbation = where(better, perturbation, self.perturbation)
        self.norms = torch.where(better, norms, self.norms)

    @property
    def open(self) -> Tensor:
        """Images that are searched, bool (B,): all that do not reach the goal when clean."""
        return self.norms > 0


def judged_slope(
    surrogates: Surrogates, adversarial: Tensor, objective: Objective, goal: Goal
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the objective; whether each image reaches the goal, bool (B,), and its objective (B,).

    The last two are always in fp32: they say on which side of the boundary a point is. Where gradients are in reduced
    precision that takes one more forward pass.
    """
    slope = surrogates.slope(adversarial, objective, goal)
    if surrogates.exact:
        return slope.gradient, goal.reached(slope.logits), slope.values
    return slope.gradient, *surrogates.judge(adversarial, objective, goal)


def settle(surrogates: Surrogates, batch: Batch, ball: Ball, best: Best, reached: Callable[[Tensor], Tensor]) -> Found:
    """Stores the perturbations that were found in 8 bits, inside the budget.

    A smallest perturbation ends just beyond the boundary and changes most values by less than half a grey level, so
    rounding alone would undo it. It is lengthened as little as needed, and as the budget allows, until what is stored
    reaches the goal again: its length is doubled until it does, then halved in between (geometrically).

    Args:
        reached: (B, classes) logits -> bool (B,), what the stored canvas should fulfil.

    Returns:
        The clean canvas where none was found or needed; the longest perturbation in the budget where none survives.
    """

    def stored(scale: Tensor) -> Tensor:
        return ball.to_grid(batch.canvases, (batch.clean + per_image(scale) * best.perturbation).clamp(0, 1))

    found = best.norms.isfinite() & best.open
    # Longer ones would only be cut back to the budget. One that is too long already has a single chance.
    longest = torch.where(found, ball.eps / best.norms, 1).clamp(min=1)
    scale, low = torch.ones_like(longest), torch.ones_like(longest)
    high = torch.full_like(longest, torch.inf)
    kept, trying = where(found, stored(scale), batch.canvases), found & (best.norms <= ball.eps)
    for doubling in range(1, _DOUBLINGS + 1):
        asked = surrogates.counting(trying)
        if asked.idle:
            break
        tried = stored(scale)
        survived = trying & reached(on_grid(asked, tried))
        kept = where(trying, tried, kept)
        high, low = torch.where(survived, scale, high), torch.where(trying & ~survived, scale, low)
        trying = trying & ~survived & (scale < longest)
        doubled = 2 * scale if doubling < _DOUBLINGS - 1 else longest
        scale = torch.minimum(doubled, longest)
    between = high.isfinite() & (low < high)
    for _ in range(_HALVINGS):
        asked = surrogates.counting(between)
        if asked.idle:
            break
        middle = torch.where(between, (low * high).sqrt(), 1)
        tried = stored(middle)
        survived = between & reached(on_grid(asked, tried))
        kept = where(survived, tried, kept)
        high, low = torch.where(survived, middle, high), torch.where(survived, low, middle)
    return Found(kept, best.norms)


def annealed(start: float, end: float, step: int, steps: int) -> float:
    """From `start` at step 0 along half a cosine to `end` at `steps`."""
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


def unit(gradient: Tensor) -> Tensor:
    """The gradient with an L2 norm of 1, (B, 3, S, S); zero where it is zero."""
    return L2Ball(1.0).direction(gradient, gradient)


def dual_norm(norm: str, gradients: Tensor) -> Tensor:
    """The dual norm over the last three axes: how much a perturbation of norm 1 can raise a linear objective."""
    order = {"linf": 1.0, "l2": 2.0, "l1": math.inf}[norm]
    sizes: Tensor = torch.linalg.vector_norm(gradients.flatten(-3), ord=order, dim=-1)
    return sizes


def shrink(norm: str, perturbation: Tensor, radius: Tensor) -> Tensor:
    """The nearest perturbation (in L2) of norm <= radius, (B,), one for each image; the box is not looked at."""
    limit = per_image(radius)
    if norm == "linf":
        return torch.clamp(perturbation, -limit, limit)
    if norm == "l2":
        size: Tensor = torch.linalg.vector_norm(perturbation, dim=(1, 2, 3), keepdim=True)
        return perturbation * (limit / size.clamp(min=1e-12)).clamp(max=1)
    # Every value moves towards zero by the same (Duchi et al. 2008, fig. 1).
    magnitudes = perturbation.abs().flatten(1)
    ordered = magnitudes.sort(dim=1, descending=True).values
    thresholds = (ordered.cumsum(dim=1) - radius[:, None]) / torch.arange(1, ordered.shape[1] + 1, device=radius.device)
    kept = (ordered > thresholds).sum(dim=1, keepdim=True).clamp(min=1)
    threshold = thresholds.gather(1, kept - 1).clamp(min=0)
    return perturbation.sign() * (magnitudes - threshold).clamp(min=0).view_as(perturbation)

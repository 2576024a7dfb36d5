"""Budgets: the ball around a canvas, in each norm, that an adversarial canvas may not leave.

Perturbations are float (B, 3, H, W) in the unit of [0, 1] pixels; grid canvases are uint8.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from transforms.attacks.randomness import Draws

LEVELS = 255


class Ball(Protocol):
    """All perturbations of norm <= eps."""

    eps: float

    def start(self, canvases: Tensor, draws: Draws, restart: int) -> Tensor:
        """A random perturbation, uniform in the ball."""

    def direction(self, gradient: Tensor) -> Tensor:
        """The perturbation of norm 1 that raises the objective fastest (steepest ascent); 0 where the gradient is 0."""

    def project(self, perturbation: Tensor) -> Tensor:
        """The nearest perturbation inside the ball."""

    def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
        """Rounds to 8 bits and goes back inside the budget, exactly.

        Args:
            canvases: uint8 (B, 3, H, W), what was attacked.
            adversarial: float (B, 3, H, W) in [0, 1], inside the ball around `canvases` / 255.

        Returns:
            uint8 (B, 3, H, W) whose integer difference from `canvases` has norm <= eps * 255.
        """


@dataclass(frozen=True)
class LinfBall:
    """Every value may change by eps."""

    eps: float

    def start(self, canvases: Tensor, draws: Draws, restart: int) -> Tensor:
        unit = draws.uniform(canvases.shape[1:], step=restart, draw="start").to(canvases.device)
        return (2 * unit - 1) * self.eps

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, perturbation: Tensor) -> Tensor:
        return perturbation.clamp(-self.eps, self.eps)

    def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
        # 4/255 * 255 may come out as 3.999… in binary.
        levels = math.floor(self.eps * LEVELS + 1e-9)
        clean = canvases.to(torch.int16)
        rounded = (adversarial * LEVELS).round().to(torch.int16)
        return torch.clamp(rounded, (clean - levels).clamp(min=0), (clean + levels).clamp(max=LEVELS)).to(torch.uint8)


@dataclass(frozen=True)
class L2Ball:
    """The square root of the sum of squared changes, over all values of an image, is at most eps."""

    eps: float

    def start(self, canvases: Tensor, draws: Draws, restart: int) -> Tensor:
        shape = canvases.shape[1:]
        # Uniform in a ball: a uniform direction, and a radius whose d-th power is uniform.
        direction = _normalized(draws.normal(shape, step=restart, draw="start"))
        radius = draws.uniform((1, 1, 1), step=restart, draw="radius") ** (1 / math.prod(shape))
        return (direction * radius * self.eps).to(canvases.device)

    def direction(self, gradient: Tensor) -> Tensor:
        return _normalized(gradient)

    def project(self, perturbation: Tensor) -> Tensor:
        norms = _l2(perturbation)
        return perturbation * (self.eps / norms.clamp(min=self.eps))

    def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
        clean = canvases.flatten(1).to(torch.int64)
        exact = adversarial.flatten(1).double() * LEVELS - clean
        # Inside the ball in single precision may be a little outside.
        exact = exact * (self.eps * LEVELS / exact.norm(dim=1, keepdim=True)).clamp(max=1)
        rounded = exact.round().long().clamp(-clean, LEVELS - clean)
        towards_zero = exact.trunc().long()
        # Rounding away from zero can leave the ball; undo it where it overshot most, until the norm fits. All undone
        # is the truncated perturbation, which is always inside.
        excess = (rounded**2).sum(1) - math.floor((self.eps * LEVELS) ** 2 + 1e-6)
        gain = rounded**2 - towards_zero**2
        overshoot = rounded.abs() - exact.abs()
        order = overshoot.argsort(dim=1, descending=True, stable=True)
        gained_before = gain.gather(1, order).cumsum(1) - gain.gather(1, order)
        undo = torch.zeros_like(rounded, dtype=torch.bool).scatter(1, order, gained_before < excess[:, None])
        inside = torch.where(undo & (gain > 0), towards_zero, rounded)
        return (clean + inside).to(torch.uint8).view_as(canvases)


BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"linf": LinfBall, "l2": L2Ball}


def _l2(perturbation: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(perturbation, dim=(1, 2, 3), keepdim=True)
    return norms


def _normalized(perturbation: Tensor) -> Tensor:
    tiny = torch.finfo(perturbation.dtype).tiny
    # Gradients of a confident model are so small that their squares would vanish.
    scaled = perturbation / perturbation.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=tiny)
    return scaled / _l2(scaled).clamp(min=tiny)

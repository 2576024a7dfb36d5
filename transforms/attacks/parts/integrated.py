"""Integrated gradients: between a canvas and a coarser one, which differs from it a little in each value."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from transforms.attacks.gradients import Gradients
from transforms.attacks.parts.estimators import BaseEstimator, Estimate, for_each_copy
from transforms.attacks.parts.operators import MOVES, Operator, applied, resize, turn_within
from transforms.randomness import Draws
from transforms.ranges import at_least, within

_RESIZED: Operator = partial(resize, rate=245 / 224)
AUXILIARY: tuple[Operator, ...] = (*MOVES, partial(turn_within, degrees=45), *[_RESIZED] * 5)
"""A half of the time resized, else one of the five others."""


def quantized(points: Tensor, regions: int, draws: Draws) -> Tensor:
    """Each value of (B, 3, S, S) lowered to the end of its region, without gradient. The range of values of each image
    and channel is cut into so many regions at random places."""
    points = points.detach()
    lowest, highest = (end(points, dim=(2, 3), keepdim=True) for end in (torch.amin, torch.amax))
    found = lowest.expand_as(points)
    cuts = lowest + (highest - lowest) * draws.uniform((3, 1, regions - 1), "regions").to(points)
    for cut in torch.split(cuts.sort(dim=3).values, 1, dim=3):
        found = torch.where(points >= cut, cut, found)
    return found


@dataclass(frozen=True)
class IntegratedGradients(BaseEstimator):
    """MuMoDIG: the sum of integrated gradients of the canvas and of changed copies, each from a coarser picture of its
    own (Ren et al. 2025, arXiv:2412.18844; values and gradients are multiplied as in the authors' code).

    Attributes:
        auxiliary: changed copies.
        baselines: coarser pictures of each.
        interpolations: points between a coarser picture and the copy.
        regions: different values in each channel of a coarser picture.
        position: where in its part of the way a point is, 1 being the end nearer to the copy.
    """

    auxiliary: int
    baselines: int
    interpolations: int
    regions: int
    position: float
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, auxiliary=self.auxiliary)
        at_least(1, baselines=self.baselines, interpolations=self.interpolations)
        at_least(2, regions=self.regions)
        within("(0, 1]", position=self.position)

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            total = torch.zeros_like(points)
            for number in range(self.auxiliary + 1):
                path, start = draws.at("auxiliary", number), points.detach().requires_grad_()
                seen = applied(AUXILIARY, start, path) if number else start
                for baseline in range(self.baselines):
                    total = total + self._integrated(gradients, start, seen, path.at("baseline", baseline))
            return total

        return estimate

    def _integrated(self, gradients: Gradients, start: Tensor, seen: Tensor, draws: Draws) -> Tensor:
        """The gradients along the way with respect to the canvas, times what the values change on it."""
        baseline = quantized(seen, self.regions, draws)
        total = torch.zeros_like(start)
        for number in range(self.interpolations):
            between = baseline + (number + self.position) / self.interpolations * (seen - baseline)
            gradient = gradients.at(between.detach(), draws.at("interpolation", number))
            (pulled,) = torch.autograd.grad(between, start, gradient, retain_graph=True)
            total = total + pulled
        return total * (seen - baseline).detach()

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps * (1 + self.auxiliary) * self.baselines * self.interpolations, models, copies)

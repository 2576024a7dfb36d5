"""Operators: simple changes of a picture, drawn at random one after the other, and gradients in a neighbourhood of both
pictures and operators."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.gradients import Gradients
from transforms.attacks.parts.estimators import BaseEstimator, Estimate, for_each_copy
from transforms.attacks.parts.transformations import resized_and_padded, rotated
from transforms.attacks.per_image import per_image
from transforms.attacks.protocol import BaseTransformation, Batch
from transforms.randomness import Draws
from transforms.ranges import at_least

Operator = Callable[[Tensor, Sequence[float]], Tensor]
"""(image (1, 3, S, S), three numbers from [0, 1)) -> a changed image."""


def same(image: Tensor, numbers: Sequence[float]) -> Tensor:
    return image


def shift(image: Tensor, numbers: Sequence[float], *, axis: int) -> Tensor:
    """Any number of pixels along an axis, round the border."""
    return image.roll(int(numbers[0] * image.shape[axis]), dims=axis)


def flip(image: Tensor, numbers: Sequence[float], *, axis: int) -> Tensor:
    return image.flip(axis)


def turn(image: Tensor, numbers: Sequence[float], *, degrees: float) -> Tensor:
    return rotated(image, math.radians(degrees))


def turn_within(image: Tensor, numbers: Sequence[float], *, degrees: float) -> Tensor:
    """By any angle up to that many degrees either way."""
    return rotated(image, (2 * numbers[0] - 1) * math.radians(degrees))


def darken(image: Tensor, numbers: Sequence[float], *, divisor: float) -> Tensor:
    return image / divisor


def resize(image: Tensor, numbers: Sequence[float], *, rate: float) -> Tensor:
    """Enlarged at random up to a rate, put at a random place on black, and resized back, as diverse inputs are."""
    return resized_and_padded(image, rate, *numbers)


MOVES: tuple[Operator, ...] = (
    partial(shift, axis=2),
    partial(shift, axis=3),
    partial(flip, axis=2),
    partial(flip, axis=3),
)
OPERATORS: tuple[Operator, ...] = (
    same,
    *MOVES,
    *(partial(turn, degrees=degrees) for degrees in (5, -5, 15, -15, 45, -45, 90, -90, 180)),
    *(partial(darken, divisor=divisor) for divisor in range(2, 9)),
    *(partial(resize, rate=(11 + 2 * number) / 10) for number in range(10)),
)
"""Those of OPS."""
_FEWEST, _MOST = 2, 4
"""How many of them follow each other."""
_RADII = 6
"""Neighbours are drawn from a quarter, two quarters … of the radius."""


def applied(operators: Sequence[Operator], points: Tensor, draws: Draws) -> Tensor:
    """One of the operators, drawn for each image of (B, 3, S, S)."""
    chosen, numbers = draws.integers(len(operators), (), "operator"), draws.uniform((3,), "numbers")
    images = zip(torch.split(points, 1), chosen.tolist(), numbers.tolist(), strict=True)
    return torch.cat([operators[which](image, number) for image, which, number in images])


@dataclass(frozen=True)
class OperatorSequences(BaseTransformation):
    """Two to four operators, one after the other, drawn for each image and copy."""

    copies: int

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        lengths = _FEWEST + draws.integers(_MOST - _FEWEST + 1, (), "length").to(points.device)
        for number in range(_MOST):
            changed = applied(OPERATORS, points, draws.at("operator", number))
            points = torch.where(per_image(number < lengths), changed, points)
        return points


@dataclass(frozen=True)
class OperatorPerturbation(BaseEstimator):
    """OPS: the gradient, and those of all operator sequences at all neighbours, averaged (Guo et al. 2025, "Boosting
    Adversarial Transferability through Augmentation in Hypothesis Space", CVPR).

    Attributes:
        neighbors: points around the canvas, in a cube as in the other neighbourhoods, whose size is drawn, too.
        operators: sequences at each neighbour.
        radius: four sixths of half the side of the largest cube, in the ball's norm.
    """

    ball: Ball
    neighbors: int
    operators: int
    radius: float
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, neighbors=self.neighbors, operators=self.operators)

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            total, radius = gradients.at(points, draws), self.ball.spread(self.radius, points[0].numel())
            sequences = (OperatorSequences(self.operators), *gradients.transformations)
            operated = replace(gradients, transformations=sequences)
            for number in range(self.neighbors):
                path = draws.at("neighbor", number)
                sizes = per_image((path.integers(_RADII, (), "radius") + 1) / 4).to(points)
                noise = 2 * path.uniform(points.shape[1:], "neighbor").to(points) - 1
                total = total + self.operators * operated.at(points + radius * sizes * noise, path)
            return total / (1 + self.neighbors * self.operators)

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps * (1 + self.neighbors * self.operators), models, copies)

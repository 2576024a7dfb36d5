"""Budgets: the ball around a canvas, in each norm, that an adversarial canvas may not leave.

Perturbations are float (B, 3, H, W) in the unit of [0, 1] pixels; grid canvases are uint8.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from transforms.attacks.per_image import per_image
from transforms.data.pixels import WHITE
from transforms.randomness import Draws

_HALVINGS = 30
"""Enough to find a number between 0 and 1 to the precision of a float32."""
_LONGEST = 32
"""How many times longer a perturbation is made before it is rounded, at most."""
_LENGTHS = 12
"""Halvings, to find how many times."""


class Ball(Protocol):
    """All perturbations of norm <= eps."""

    norm: ClassVar[str]

    @property
    def eps(self) -> float: ...

    def length(self, perturbation: Tensor) -> Tensor:
        """The norm, (B,)."""

    def spread(self, length: float, values: int) -> float:
        """The change of each of so many values that together, all alike, have norm `length`."""

    def start(self, canvases: Tensor, draws: Draws) -> Tensor:
        """A random perturbation, uniform in the ball, for canvases of any type, (B, 3, H, W)."""

    def direction(self, gradient: Tensor, adversarial: Tensor) -> Tensor:
        """The perturbation of norm 1 that raises the objective fastest (steepest ascent); 0 where the gradient is 0.

        `adversarial`, (B, 3, H, W) in [0, 1], is where the step starts.
        """

    def project(self, perturbation: Tensor, clean: Tensor) -> Tensor:
        """The nearest perturbation inside the ball that leaves `clean` (B, 3, H, W) in [0, 1] within [0, 1]."""

    def inside(self, points: Tensor, clean: Tensor) -> Tensor:
        """The nearest canvases inside the ball around `clean` and within [0, 1], all (B, 3, H, W)."""

    def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
        """Rounds to 8 bits and goes back inside the budget, exactly.

        Args:
            canvases: uint8 (B, 3, H, W), what was attacked.
            adversarial: float (B, 3, H, W) in [0, 1]. Where it is outside the budget, it is first scaled towards
                `canvases` (L2, L1) or cut off (L∞).

        Returns:
            uint8 (B, 3, H, W) whose integer difference from `canvases` has norm <= eps * 255.
        """


class _Around:
    def inside(self: Ball, points: Tensor, clean: Tensor) -> Tensor:
        return clean + self.project(points - clean, clean)


@dataclass(frozen=True)
class LinfBall(_Around):
    """Every value may change by eps."""

    eps: float
    norm: ClassVar[str] = "linf"

    def length(self, perturbation: Tensor) -> Tensor:
        return perturbation.abs().amax(dim=(1, 2, 3))

    def spread(self, length: float, values: int) -> float:
        return length

    def start(self, canvases: Tensor, draws: Draws) -> Tensor:
        unit = draws.uniform(canvases.shape[1:], "start").to(canvases.device)
        return (2 * unit - 1) * self.eps

    def direction(self, gradient: Tensor, adversarial: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, perturbation: Tensor, clean: Tensor) -> Tensor:
        return _in_box(perturbation.clamp(-self.eps, self.eps), clean)

    def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
        levels = math.floor(self.eps * WHITE + 1e-9)  # 4/255 * 255 may come out as 3.999… in binary
        clean = canvases.to(torch.int16)
        rounded = (adversarial * WHITE).round().to(torch.int16)
        return torch.clamp(rounded, (clean - levels).clamp(min=0), (clean + levels).clamp(max=WHITE)).to(torch.uint8)


@dataclass(frozen=True)
class L2Ball(_Around):
    """The square root of the sum of squared changes, over all values of an image, is at most eps."""

    eps: float
    norm: ClassVar[str] = "l2"

    def length(self, perturbation: Tensor) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(perturbation, dim=(1, 2, 3))
        return norms

    def spread(self, length: float, values: int) -> float:
        return length / math.sqrt(values)

    def start(self, canvases: Tensor, draws: Draws) -> Tensor:
        shape = canvases.shape[1:]
        # Uniform in a ball: a uniform direction, and a radius whose d-th power is uniform.
        direction = self.normalized(draws.normal(shape, "start"))
        radius = draws.uniform((1, 1, 1), "radius") ** (1 / math.prod(shape))
        return (direction * radius * self.eps).to(canvases.device)

    def direction(self, gradient: Tensor, adversarial: Tensor) -> Tensor:
        return self.normalized(gradient)

    def project(self, perturbation: Tensor, clean: Tensor) -> Tensor:
        """Inside the box, the nearest is `perturbation` shrunk; else it is the shrunk one cut off at the box (KKT)."""
        fits = self.eps / self.length(perturbation).clamp(min=self.eps)
        scale = _largest(fits, lambda scale: self.length(_in_box(perturbation * per_image(scale), clean)) <= self.eps)
        return _in_box(perturbation * per_image(scale), clean)

    def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
        return _round_inside(canvases, adversarial, self.eps, power=2)

    @staticmethod
    def normalized(perturbation: Tensor) -> Tensor:
        """Divided by its norm, per image; 0 stays 0."""
        tiny = torch.finfo(perturbation.dtype).tiny
        # Gradients of a confident model are so small that their squares would vanish.
        scaled = perturbation / perturbation.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=tiny)
        norms: Tensor = torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True)
        return scaled / norms.clamp(min=tiny)


@dataclass(frozen=True)
class L1Ball(_Around):
    """The sum of changes, over all values of an image, is at most eps.

    Steepest ascent in L1 would move a single value; as in SLIDE (Tramèr & Boneh 2019, arXiv:1904.13000) a step
    moves the hundredth part of all values whose gradient is largest, each by the same, and passes over those that
    are at the end of the pixel's range already.
    """

    eps: float
    norm: ClassVar[str] = "l1"
    moved: ClassVar[float] = 0.01

    def length(self, perturbation: Tensor) -> Tensor:
        return perturbation.abs().sum(dim=(1, 2, 3))

    def spread(self, length: float, values: int) -> float:
        return length / values

    def start(self, canvases: Tensor, draws: Draws) -> Tensor:
        shape = canvases.shape[1:]
        # Uniform in an L1 ball: magnitudes from the simplex, random signs, and the radius as in L2.
        magnitude = -torch.log1p(-draws.uniform(shape, "start"))
        signs = 2 * draws.integers(2, shape, "signs") - 1
        radius = draws.uniform((1, 1, 1), "radius") ** (1 / math.prod(shape))
        return (signs * magnitude / per_image(self.length(magnitude)) * radius * self.eps).to(canvases.device)

    def direction(self, gradient: Tensor, adversarial: Tensor) -> Tensor:
        stuck = ((adversarial <= 0) & (gradient < 0)) | ((adversarial >= 1) & (gradient > 0))
        free = gradient.masked_fill(stuck, 0).flatten(1)
        count = max(1, round(self.moved * free.shape[1]))
        steepest = free.abs().topk(count, dim=1).indices
        chosen = torch.zeros_like(free).scatter(1, steepest, free.gather(1, steepest).sign())
        return (chosen / chosen.abs().sum(dim=1, keepdim=True).clamp(min=1)).view_as(gradient)

    def project(self, perturbation: Tensor, clean: Tensor) -> Tensor:
        """The nearest is `perturbation` with every value moved towards zero by the same, then cut off at the box
        (Croce & Hein 2021, arXiv:2103.01208, prop. 2.1)."""
        highest = perturbation.abs().amax(dim=(1, 2, 3))

        def shrunk(share: Tensor) -> Tensor:
            threshold = per_image(highest * (1 - share))
            return _in_box(perturbation.sign() * (perturbation.abs() - threshold).clamp(min=0), clean)

        share = _largest(torch.zeros_like(highest), lambda share: self.length(shrunk(share)) <= self.eps)
        return shrunk(share)

    def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
        return _round_inside(canvases, adversarial, self.eps, power=1)


BALLS: dict[str, type[LinfBall] | type[L2Ball] | type[L1Ball]] = {"linf": LinfBall, "l2": L2Ball, "l1": L1Ball}


def _in_box(perturbation: Tensor, clean: Tensor) -> Tensor:
    return torch.clamp(perturbation, -clean, 1 - clean)


def _largest(start: Tensor, fits: Callable[[Tensor], Tensor], halvings: int = _HALVINGS) -> Tensor:
    """The largest number up to 1, (B,), for which `fits` holds; it holds for `start` and stops holding only once."""
    low = torch.where(fits(torch.ones_like(start)), 1.0, start)
    high = torch.ones_like(start)
    for _ in range(halvings if bool((low < 1).any()) else 0):
        middle = (low + high) / 2
        inside = fits(middle)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return low


def _round_inside(canvases: Tensor, adversarial: Tensor, eps: float, power: int) -> Tensor:
    """Rounds to 8 bits so that the sum of |change| ** power stays within the budget.

    Where a perturbation changes most values by less than half a level, rounding would leave nothing of it. It is made
    longer first, so that what is left is about as long as it was: its largest values, in whole levels.
    """
    # Whole levels in double precision: all sums are exact, and nothing is converted in between.
    clean = canvases.flatten(1).double()
    exact = adversarial.flatten(1).double() * WHITE - clean
    # Inside the ball in single precision may be a little outside.
    norms = torch.linalg.vector_norm(exact, ord=power, dim=1, keepdim=True)
    exact = exact * (eps * WHITE / norms).clamp(max=1)

    limit = _power(exact, power).sum(1)
    lowest, highest = -clean, WHITE - clean

    def longer(share: Tensor) -> Tensor:
        lengthened: Tensor = exact * (1 + (_LONGEST - 1) * share[:, None])
        return lengthened.round().clamp(lowest, highest)

    # Every rounded value grows with the length, and so does their norm.
    fits = _largest(torch.zeros_like(limit), lambda share: _power(longer(share), power).sum(1) <= limit, _LENGTHS)
    rounded = longer(fits)
    excess = _power(rounded, power).sum(1) - math.floor((eps * WHITE) ** power + 1e-6)
    if bool((excess > 0).any()):
        rounded = _undone(rounded, exact, excess, power)
    return (clean + rounded).to(torch.uint8).view_as(canvases)


def _undone(rounded: Tensor, exact: Tensor, excess: Tensor, power: int) -> Tensor:
    """Rounding away from zero, undone where it overshot most, until the sum is smaller by `excess`, (B,).

    All undone is the truncated perturbation, which is always inside.
    """
    towards_zero = exact.trunc()
    gain = _power(rounded, power) - _power(towards_zero, power)
    overshoot = rounded.abs() - exact.abs()
    order = overshoot.argsort(dim=1, descending=True, stable=True)
    gained = gain.gather(1, order)
    gained_before = gained.cumsum(1) - gained
    undo = torch.zeros_like(rounded, dtype=torch.bool).scatter(1, order, gained_before < excess[:, None])
    return torch.where(undo & (gain > 0), towards_zero, rounded)


def _power(values: Tensor, power: int) -> Tensor:
    """|values| ** power, of 1 or 2."""
    return values.abs() if power == 1 else values * values

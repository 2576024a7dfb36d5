"""Spatial: a canvas turned and shifted as a whole, on logits alone. Its budget is no norm, but how far."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from transforms.attacks.drivers.shared import sampled
from transforms.attacks.objectives import cross_entropy
from transforms.attacks.per_image import per_image, where
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import Budget, Degrees, Shift
from transforms.data.pixels import WHITE
from transforms.errors import InputError
from transforms.randomness import Draws
from transforms.ranges import at_least, within


def turned(canvases: Tensor, moves: Tensor) -> Tensor:
    """Canvases (B, 3, S, S) of any floats, turned about their centre, then shifted; black where nothing comes to lie.

    Args:
        moves: (B, 3): degrees counter-clockwise, pixels to the right, pixels down. Between pixels, bilinear.
    """
    middle = (canvases.shape[-1] - 1) / 2
    places = torch.arange(canvases.shape[-1], device=canvases.device) - middle
    # Not torch's, whose kernel rounds by a value's place in the batch.
    angles = [math.radians(angle) for angle in moves[:, 0].tolist()]
    cosine, sine = (per_image(moves.new_tensor([of(each) for each in angles]), 3) for of in (math.cos, math.sin))
    # Where each pixel comes from: the last move is undone first.
    across, down = places - per_image(moves[:, 1], 3), places[:, None] - per_image(moves[:, 2], 3)
    turned_back = (cosine * across - sine * down, sine * across + cosine * down)
    return sampled(canvases, *(each + middle for each in turned_back), outside="zeros")


@dataclass(frozen=True, kw_only=True)
class Spatial(BaseAttack, ABC):
    """Tries moves of the whole canvas and keeps the worst: of those that reach the goal, else of all, the one with the
    highest objective. Every query is a canvas of 8 bits. Defaults are the paper's for ImageNet, at 224 pixels.

    Attributes:
        max_rotation: in either direction, degrees.
        max_translation: in each direction along each axis, pixels.
    """

    max_rotation: Budget[Degrees] = 30.0
    max_translation: Budget[Shift] = 24.0
    measures: ClassVar[tuple[str, ...]] = ("rotation", "shift_x", "shift_y")

    def __post_init__(self) -> None:
        within("[0, 180]", max_rotation=self.max_rotation)
        at_least(0, max_translation=self.max_translation)
        if self.max_rotation == self.max_translation == 0:
            raise InputError("max_rotation: 0 with max_translation: 0 moves nothing; take one above 0")

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many moves are tried."""

    @abstractmethod
    def _moves(self, draws: Draws, count: int) -> Iterator[Tensor]:
        """Each move, (B, 3) as `turned` takes it."""

    def check(self, side: int) -> None:
        if self.max_translation >= side:
            raise InputError(f"max_translation: {self.max_translation:g} moves a canvas of {side} pixels out of sight")

    def cost(self, models: int) -> tuple[int, int]:
        return models * self.steps, 0

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        """Engstrom et al. 2019, §3."""
        kept, clean = batch.canvases, batch.canvases.float()
        best = torch.full((len(kept),), -torch.inf, device=kept.device)
        fooled = torch.zeros_like(best, dtype=torch.bool)
        moved = torch.zeros(len(kept), 3, device=kept.device)
        for moves in self._moves(batch.draws, len(kept)):
            here = moves.to(clean)
            tried = turned(clean, here).round().to(torch.uint8)
            reached, values = surrogates.judge(tried.float() / WHITE, cross_entropy, batch.goal)
            better = (reached & ~fooled) | ((reached | ~fooled) & (values > best))
            kept, moved = where(better, tried, kept), torch.where(better[:, None], here, moved)
            best, fooled = torch.where(better, values, best), fooled | reached
        return Found(kept, measured=dict(zip(self.measures, moved.unbind(dim=1), strict=True)))


@dataclass(frozen=True, kw_only=True)
class GridSearch(Spatial):
    """All moves on a grid, its ends included.

    Attributes:
        num_rotations: angles.
        num_translations: shifts along each axis.
    """

    num_rotations: int = 31
    num_translations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, num_rotations=self.num_rotations, num_translations=self.num_translations)

    @property
    def steps(self) -> int:
        return math.prod(map(len, self._axes))

    @property
    def _axes(self) -> list[list[float]]:
        """Angles, shifts to the right, and shifts down; a single one where there is no room."""
        angles, shifts = (
            torch.linspace(-most, most, count, dtype=torch.float64).tolist() if most else [0.0]
            for most, count in (
                (self.max_rotation, self.num_rotations),
                (self.max_translation, self.num_translations),
            )
        )
        return [angles, shifts, shifts]

    def _moves(self, draws: Draws, count: int) -> Iterator[Tensor]:
        for move in product(*self._axes):
            yield torch.tensor(move).expand(count, 3)


@dataclass(frozen=True, kw_only=True)
class WorstOf(Spatial):
    """The worst of moves drawn at random, uniform up to the bounds.

    Attributes:
        tries: moves, k.
    """

    tries: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, tries=self.tries)

    @property
    def steps(self) -> int:
        return self.tries

    def _moves(self, draws: Draws, count: int) -> Iterator[Tensor]:
        most = torch.tensor([self.max_rotation, self.max_translation, self.max_translation])
        for number in range(self.tries):
            yield (2 * draws.at("try", number).uniform((3,), "move") - 1) * most


_SOURCE = "Engstrom et al. 2019, arXiv:1712.02779"
RECIPES = {
    "spatial": Recipe(_SOURCE, [GridSearch], kind="score", norms=(), gradients=False),
    "spatial-random": Recipe(_SOURCE, [WorstOf], kind="score", norms=(), gradients=False),
}

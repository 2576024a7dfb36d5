"""Gradients of an objective, through surrogates and input transformations."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from transforms.attacks.objectives import Objective
from transforms.attacks.protocol import Batch, Transformation
from transforms.attacks.surrogates import Surrogates
from transforms.randomness import Draws


@dataclass(frozen=True)
class Gradients:
    """Gradients of a batch's objective, the surrogates being shown transformed canvases.

    Attributes:
        transformations: applied first to last; all copies of one are given to the next.
        eot: how often everything random is drawn.
    """

    surrogates: Surrogates
    objective: Objective
    batch: Batch
    transformations: tuple[Transformation, ...] = ()
    eot: int = 1

    @property
    def members(self) -> tuple["Gradients", ...]:
        """The same for each surrogate alone."""
        return tuple(replace(self, surrogates=each) for each in self.surrogates.members)

    @property
    def redraws(self) -> bool:
        """Whether the gradient at a point is another one with other draws."""
        return self.surrogates.random or any(each.random for each in self.transformations)

    def at(self, points: Tensor, draws: Draws) -> Tensor:
        """The gradient (B, 3, S, S) at float points (B, 3, S, S), averaged over all copies and draws."""
        total = torch.zeros_like(points)
        choices = list(itertools.product(range(self.eot), *(range(each.copies) for each in self._separate)))
        for repetition, *choice in choices:
            copies = [
                partial(self._copy, choice=each, draws=draws.at("eot", repetition)) for each in self._with(choice)
            ]
            surrogates = self.surrogates.redrawn(draws.at("defense", repetition, *choice))
            total = total + surrogates.slope(points, self.objective, self.batch.goal, copies=copies).gradient
        return total / len(choices)

    @property
    def _separate(self) -> list[Transformation]:
        return [each for each in self.transformations if not each.fused]

    def _with(self, choice: Sequence[int]) -> list[tuple[int, ...]]:
        """A copy of each transformation: of the separate ones as chosen, of the others every one."""
        separate = iter(choice)
        options = [range(each.copies) if each.fused else (next(separate),) for each in self.transformations]
        return list(itertools.product(*options))

    def _copy(self, points: Tensor, choice: tuple[int, ...], draws: Draws) -> Tensor:
        for number, transformation in enumerate(self.transformations):
            path = draws.at("transformation", number, *choice[: number + 1])
            points = transformation(points, choice[number], path, self.batch)
        return points

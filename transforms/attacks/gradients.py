"""Gradients of an objective, through surrogates and input transformations, and perhaps of what happens inside."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from transforms.attacks.objectives import Objective
from transforms.attacks.protocol import Batch, Transformation
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import LayerNames
from transforms.randomness import Draws

Way = Callable[[Surrogates, Draws], tuple[Surrogates, ...]]
"""(surrogates, a gradient's draws) -> the same with something done inside; their gradients are averaged."""


class FeatureUse(Protocol):
    """What an attack does inside surrogates: follows features in place of logits, or changes features on their way.

    Attributes:
        random: whether anything is drawn.
        redraws: whether it is drawn for each gradient anew.
        mixes: whether the batch's pool is mixed in.
        own_objective: whether features are followed, so that the loop's objective judges and does nothing else.
        layer: where.
    """

    random: ClassVar[bool]
    redraws: ClassVar[bool]
    mixes: ClassVar[bool]
    own_objective: ClassVar[bool]

    @property
    def layer(self) -> LayerNames: ...

    def begin(self) -> "Callable[[Gradients, Tensor, Draws], Way]":
        """For one run of the loop: (gradients, adversarial canvases, the step's draws) -> the way of its gradients.

        It is asked at each step; what it remembers between steps dies with it.
        """

    def passes(self, steps: int, models: int, copies: int, forwards: int) -> tuple[int, int]:
        """Forward and backward passes that a run takes per image besides those of the gradients.

        Args:
            models: surrogates.
            copies: what each gradient is averaged over.
            forwards: passes of the gradients.
        """


@dataclass(frozen=True)
class Gradients:
    """Gradients of a batch's objective, the surrogates being shown transformed canvases.

    Attributes:
        transformations: applied first to last; all copies of one are given to the next.
        eot: how often everything random is drawn.
        features: what is done inside the surrogates; None for nothing.
        way: its way of this step.
    """

    surrogates: Surrogates
    objective: Objective
    batch: Batch
    transformations: tuple[Transformation, ...] = ()
    eot: int = 1
    features: FeatureUse | None = None
    way: Way | None = None

    @property
    def members(self) -> tuple["Gradients", ...]:
        """The same for each surrogate alone."""
        return tuple(replace(self, surrogates=each) for each in self.surrogates.members)

    @property
    def redraws(self) -> bool:
        """Whether the gradient at a point is another one with other draws."""
        inside = self.features is not None and self.features.redraws
        return inside or self.surrogates.random or any(each.random for each in self.transformations)

    def at(self, points: Tensor, draws: Draws) -> Tensor:
        """The gradient (B, 3, S, S) at float points (B, 3, S, S), averaged over all copies and draws."""
        return self.with_values(points, draws)[0]

    def with_values(self, points: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The same, and the objective (B,) that it is of."""
        total, values = torch.zeros_like(points), points.new_zeros(len(points))
        choices = list(itertools.product(range(self.eot), *(range(each.copies) for each in self._separate)))
        for repetition, *choice in choices:
            copies = [
                partial(self._copy, choice=each, draws=draws.at("eot", repetition)) for each in self._with(choice)
            ]
            surrogates = self.surrogates.redrawn(draws.at("defense", repetition, *choice))
            seen = (surrogates,) if self.way is None else self.way(surrogates, draws.at("inside", repetition, *choice))
            slopes = [each.slope(points, self.objective, self.batch.goal, copies=copies) for each in seen]
            total = total + sum(slope.gradient for slope in slopes) / len(slopes)
            values = values + sum(slope.values for slope in slopes) / len(slopes)
        return total / len(choices), values / len(choices)

    @property
    def _separate(self) -> list[Transformation]:
        return [each for each in self.transformations if not each.fused]

    def _with(self, choice: Sequence[int]) -> list[tuple[int, ...]]:
        """A copy of each transformation: of the separate ones as chosen, of the others every one."""
        separate = iter(choice)
        options = [range(each.copies) if each.fused else (next(separate),) for each in self.transformations]
        return list(itertools.product(*options))

    def _copy(self, points: Tensor, choice: tuple[int, ...], draws: Draws) -> Tensor:
        before: tuple[int, ...] = ()
        for number, (transformation, copy) in enumerate(zip(self.transformations, choice, strict=True)):
            points = transformation(points, copy, draws.at("transformation", number, *before, copy), self.batch)
            before = (*before, 0 if transformation.aligned else copy)
        return points

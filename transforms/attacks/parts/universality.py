"""Self-universality: a perturbation that means the same on a part of the canvas as on the whole of it (Wei et al. 2023,
arXiv:2209.03716)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.gradients import Gradients, Way
from transforms.attacks.inside import Inside
from transforms.attacks.objectives import Goal, Objective
from transforms.attacks.protocol import BaseTransformation, Batch
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import LayerNames
from transforms.errors import InputError
from transforms.randomness import Draws
from transforms.ranges import above, at_least

_LONGEST = 4 / 3
"""Sides of a part, the longer by the shorter one, at most."""


@dataclass(frozen=True)
class GlobalAndLocal(BaseTransformation):
    """The canvas, and a random part of the clean one, enlarged to a canvas and perturbed like the whole.

    What follows changes both alike. Sides of a part are at most 4 : 3, and end at the canvas.

    Attributes:
        start: the smallest area of a part, of the canvas's, > 0.
        interval: by how much it may be larger.
    """

    start: float
    interval: float
    copies: ClassVar[int] = 2
    fused: ClassVar[bool] = True
    aligned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        above(0, scale_start=self.start)
        at_least(0, scale_interval=self.interval)
        if self.start + self.interval > 1:
            raise InputError(f"scale_interval: {self.interval} leads beyond the canvas with scale_start: {self.start}")

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        if copy == 0:
            return points
        clean, numbers = batch.clean, draws.uniform((4,), "part").tolist()
        parts = [self._part(picture, each) for picture, each in zip(torch.split(clean, 1), numbers, strict=True)]
        return torch.cat(parts) + points - clean

    def _part(self, picture: Tensor, numbers: Sequence[float]) -> Tensor:
        size, shape, top, left = numbers
        side = picture.shape[-1]
        area, ratio = (self.start + self.interval * size) * side**2, math.exp((2 * shape - 1) * math.log(_LONGEST))
        height, width = (min(side, max(1, round(math.sqrt(each)))) for each in (area / ratio, area * ratio))
        above, before = int(top * (side - height + 1)), int(left * (side - width + 1))
        part = picture[..., above : above + height, before : before + width]
        return F.interpolate(part, size=(side, side), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class AlikeFeatures:
    """Climbs the objective of the canvas and of its part, in equal shares, and the cosine similarity of what a layer
    answers to the two; of several surrogates the mean.

    Attributes:
        layer: whose answers.
        weight: of the similarity (the paper's lambda).
    """

    layer: LayerNames
    weight: float
    random: ClassVar[bool] = False
    redraws: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    own_objective: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(0, similarity_weight=self.weight)

    def begin(self) -> Callable[[Gradients, Tensor, Draws], Way]:
        return lambda gradients, _canvases, _draws: partial(self._way, gradients.objective)

    def _way(self, climbed: Objective, surrogates: Surrogates, _draws: Draws) -> tuple[Surrogates, ...]:
        return tuple(
            member.seen({classifier: Inside(beside=member.layer, joint=partial(self._joint, climbed))})
            for classifier, member in surrogates.at(self.layer).items()
        )

    def _joint(self, climbed: Objective, logits: Tensor, features: Tensor, goal: Goal) -> Tensor:
        """Of the logits (copies, B, classes) and features (copies, B, values) of copies, the first half of which are of
        the whole canvas."""
        value = torch.stack([climbed(half.mean(dim=0), goal) for half in logits.chunk(2)]).mean(dim=0)
        whole, part = features.chunk(2)
        return value + self.weight * F.cosine_similarity(whole, part, dim=2).mean(dim=0)

    def passes(self, steps: int, models: int, copies: int, forwards: int) -> tuple[int, int]:
        return 0, 0

"""Cascades: several attacks, each on the images that withstood those before it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from transforms.attacks.drivers.shared import on_grid
from transforms.attacks.per_image import where
from transforms.attacks.protocol import Attack, BaseAttack, Batch, Found
from transforms.attacks.surrogates import Surrogates


@dataclass(frozen=True)
class Cascade(BaseAttack):
    """Attacks one after another.

    A caller that can regroup images, such as the engine, runs the stages itself on full batches of the images that
    still stand. Stage number n draws from `draws.at("stage", n)`.

    Attributes:
        attacks: in order.
    """

    attacks: tuple[Attack, ...]
    steps: ClassVar[None] = None

    @property
    def stages(self) -> tuple[Attack, ...]:
        return self.attacks

    def cost(self, models: int) -> tuple[int, int]:
        """The cost of an image that withstands every stage, with a forward pass after each."""
        forwards, backwards = zip(*(stage.cost(models) for stage in self.stages), strict=True)
        return sum(forwards) + models * len(self.stages), sum(backwards)

    def check(self, side: int) -> None:
        for stage in self.stages:
            stage.check(side)

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        """Runs the stages on one batch; hands back the first success of each image, or what the last stage made."""
        canvases = batch.canvases
        standing = torch.ones(len(canvases), dtype=torch.bool, device=canvases.device)
        for number, stage in enumerate(self.stages):
            asked = surrogates.counting(standing)
            if asked.idle:
                break
            found = stage(asked, replace(batch, draws=batch.draws.at("stage", number))).canvases
            canvases = where(standing, found, canvases)
            standing = standing & ~batch.goal.reached(on_grid(asked, canvases))
        return Found(canvases)

"""Pictures: what another tool has made of the images, judged like attacks of ours."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from transforms.attacks.balls import Ball
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.data.pixels import WHITE, Pixels
from transforms.errors import InputError

_ROUNDING = 1e-9
"""Of a root of a sum of squares."""


@dataclass(frozen=True, kw_only=True)
class Pictures(BaseAttack):
    """Hands back the pictures of the batch as they are, whether they keep the budget or not. It asks no model.

    Attributes:
        ball: the budget that they are said to keep.
        folder: where they are: a folder, a tar archive, or another run directory.
        attack: of a run directory, the attack whose canvases are meant; None where it has one.
    """

    ball: Ball = field(kw_only=False)
    folder: str = ""
    attack: str | None = None
    steps: ClassVar[None] = None

    def check(self, side: int) -> None:
        if not self.folder:
            raise InputError("folder: is missing; give a folder of pictures, a tar archive, or another run directory")

    def cost(self, models: int) -> tuple[int, int]:
        return 0, 0

    def columns(self, clean: Pixels, adversarial: Pixels) -> dict[str, float]:
        """`excess`: by how much the change is longer than eps, in the unit of [0, 1] pixels; 0 within the budget."""
        change = (torch.from_numpy(adversarial).double() - torch.from_numpy(clean).double()) / WHITE
        excess = float(self.ball.length(change[None])) - self.ball.eps
        return {"excess": excess if excess > _ROUNDING else 0.0}

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        if batch.pictures is None:
            raise ValueError("there are no pictures in this batch")
        return Found(batch.pictures)


RECIPES = {
    "pictures": Recipe("pictures that another tool has made", [Pictures], kind="pictures", models=0, gradients=False)
}

"""AutoAttack: a fixed cascade of strong attacks, each on the images that withstood those before it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from transforms.attacks.adapters import adapted
from transforms.attacks.balls import Ball
from transforms.attacks.drivers.apgd import ApgdCe, ApgdT
from transforms.attacks.drivers.minimal import SETTLING
from transforms.attacks.drivers.shared import on_grid
from transforms.attacks.drivers.square import Square
from transforms.attacks.per_image import where
from transforms.attacks.protocol import Attack, BaseAttack, Batch, Found
from transforms.attacks.recipe import LOGIT_FUSIONS, Recipe
from transforms.attacks.surrogates import Surrogates, watching

_FIRST_SQUARES = 0.8
"""The authors' choice for the cascade."""
_CLASSES = 10
"""The true class and nine others."""


@dataclass(frozen=True)
class Cascade(BaseAttack):
    """Attacks one after another.

    A caller that can regroup images runs the stages itself, each on full batches of those that still stand; stage
    number n draws from `draws.at("stage", n)`.

    Attributes:
        attacks: in order.
    """

    attacks: tuple[Attack, ...]
    steps: ClassVar[None] = None

    @property
    def stages(self) -> tuple[Attack, ...]:
        return self.attacks

    def cost(self, models: int) -> tuple[int, int]:
        """Of an image that withstands everything, with a look at what each stage made of it."""
        forwards, backwards = zip(*(stage.cost(models) for stage in self.stages), strict=True)
        return sum(forwards) + models * len(self.stages), sum(backwards)

    def check(self, side: int) -> None:
        for stage in self.stages:
            stage.check(side)

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        """Runs the stages on one batch; hands back the first success of each image, or what the last stage made."""
        canvases = batch.canvases
        standing = torch.ones(len(canvases), dtype=torch.bool, device=canvases.device)
        with watching(surrogates) as watch:
            for number, stage in enumerate(self.stages):
                if not watch(standing):
                    break
                found = stage(surrogates, replace(batch, draws=batch.draws.at("stage", number))).canvases
                canvases = where(standing, found, canvases)
                standing = standing & ~batch.goal.reached(on_grid(surrogates, canvases))
        return Found(canvases)


@dataclass(frozen=True)
class _FabTargeted(BaseAttack):
    """torchattacks' FAB towards the likeliest wrong classes, as a stage: what counts is success inside the budget."""

    ball: Ball
    steps: int

    def __post_init__(self) -> None:
        self._fab(_CLASSES)  # torchattacks missing, or a parameter out of range, is said now

    def cost(self, models: int) -> tuple[int, int]:
        """As counted of torchattacks 3.5.1: for each class two looks and one gradient a step, and three looks more;
        and five looks for all classes together."""
        classes = _CLASSES - 1
        return models * (classes * (2 * self.steps + 3) + 5 + SETTLING), models * classes * self.steps

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        classes = surrogates.logits(batch.clean).shape[1]
        return Found(self._fab(min(classes, _CLASSES))(surrogates, batch).canvases)

    def _fab(self, classes: int) -> Attack:
        return adapted("torchattacks/FAB").make(self.ball, steps=self.steps, multi_targeted=True, n_classes=classes)


def autoattack(ball: Ball, *, steps: int = 100, queries: int = 5000) -> Cascade:
    """The standard version: APGD on cross-entropy, APGD and FAB towards the nine likeliest wrong classes, Square.

    FAB is torchattacks', which attacks one image at a time.

    Args:
        steps: of each run of APGD and FAB.
        queries: of Square.

    Raises:
        InputError: torchattacks is not installed.
    """
    return Cascade(
        (
            ApgdCe(ball, steps=steps),
            ApgdT(ball, steps=steps),
            _FabTargeted(ball, steps),
            Square(ball, queries=queries, p_init=_FIRST_SQUARES),
        )
    )


RECIPES = {
    "autoattack": Recipe(
        "Croce & Hein 2020, arXiv:2003.01690",
        [autoattack],
        kind="cascade",
        norms=("linf", "l2"),
        goals="untargeted",
        fusions=LOGIT_FUSIONS,  # of all its stages, because of FAB
    )
}

"""AutoAttack: a fixed cascade of strong attacks, each on the images that withstood those before it."""

from dataclasses import dataclass, replace

import torch

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.apgd import apgd_ce, apgd_t
from transforms.attacks.drivers.shared import on_grid, watching
from transforms.attacks.drivers.square import square
from transforms.attacks.protocol import Attack, Batch, Found, where
from transforms.attacks.registry import Recipe
from transforms.attacks.surrogates import Surrogates

_FIRST_SQUARES = 0.8
"""The authors' choice for the cascade."""


@dataclass(frozen=True)
class Cascade:
    """Attacks one after another.

    A caller that can regroup images runs the stages itself, each on full batches of those that still stand; stage
    number n draws from `draws.at("stage", n)`.

    Attributes:
        stages: in order.
    """

    stages: tuple[Attack, ...]

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def cost(self, models: int) -> tuple[int, int]:
        """Of an image that withstands everything, with a look at what each stage made of it."""
        forwards, backwards = zip(*(stage.cost(models) for stage in self.stages), strict=True)
        return sum(forwards) + models * len(self.stages), sum(backwards)

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


def autoattack(ball: Ball, *, steps: int = 100, queries: int = 5000) -> Cascade:
    """APGD on cross-entropy, APGD towards nine classes, Square: the standard version without its FAB-T.

    FAB-T rarely adds anything after these, but what is measured here is not the published AutoAttack to the letter.

    Args:
        steps: of each run of APGD.
        queries: of Square.
    """
    return Cascade(
        (
            apgd_ce(ball, steps=steps),
            apgd_t(ball, steps=steps),
            square(ball, queries=queries, p_init=_FIRST_SQUARES),
        )
    )


RECIPES = {
    "autoattack": Recipe(
        "Croce & Hein 2020, arXiv:2003.01690; without FAB-T",
        [autoattack],
        kind="cascade",
        norms=("linf", "l2"),
        goals="untargeted",
    )
}

"""AutoAttack: a fixed cascade of strong attacks."""

from dataclasses import dataclass

from transforms.attacks.adapters.registry import adapted
from transforms.attacks.balls import Ball
from transforms.attacks.drivers.apgd import ApgdCe, ApgdT
from transforms.attacks.drivers.cascade import Cascade
from transforms.attacks.drivers.minimal import SETTLING
from transforms.attacks.drivers.square import Square
from transforms.attacks.protocol import Attack, BaseAttack, Batch, Found
from transforms.attacks.recipe import LOGIT_FUSIONS, Recipe
from transforms.attacks.surrogates import Surrogates

_FIRST_SQUARES = 0.8
"""The authors' choice for the cascade."""
_CLASSES = 10
"""The true class and nine others."""


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

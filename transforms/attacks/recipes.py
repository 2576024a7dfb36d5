"""Named attacks: each recipe is the literature's name for a combination of the loop's parts.

A recipe takes a ball, an objective and the parameters that its paper names, and returns an attack. Its keyword
parameters are what an experiment may set; `alpha` is in the unit of [0, 1] pixels, and None means the recipe's own
rule.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.loop import AttackLoop, Momentum
from transforms.attacks.objectives import Goal, Objective
from transforms.attacks.randomness import Draws
from transforms.attacks.surrogates import Surrogates
from transforms.errors import InputError


class Attack(Protocol):
    """Maps canvases, uint8 (B, 3, S, S), to adversarial canvases of the same shape inside the budget.

    Attributes:
        steps: iterations, of one restart.
        cost: forward and backward passes per image and window of a surrogate.
    """

    @property
    def steps(self) -> int: ...

    @property
    def cost(self) -> tuple[int, int]: ...

    def __call__(self, surrogates: Surrogates, canvases: Tensor, goal: Goal, draws: Draws) -> Tensor: ...


@dataclass(frozen=True)
class Recipe:
    """A named attack.

    Attributes:
        source: the paper.
        make: (ball, objective, **parameters) -> attack.
    """

    source: str
    make: Callable[..., Attack]


def fgsm(ball: Ball, objective: Objective) -> AttackLoop:
    """One step of the full budget."""
    return AttackLoop(ball, steps=1, alpha=ball.eps, objective=objective)


def bim(ball: Ball, objective: Objective, *, steps: int = 10, alpha: float | None = None) -> AttackLoop:
    """Small steps from the image, by default as long as reach the edge of the budget: alpha = eps / steps."""
    return AttackLoop(ball, steps, _default(alpha, ball.eps, steps), objective)


def pgd(
    ball: Ball,
    objective: Objective,
    *,
    steps: int = 10,
    alpha: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
) -> AttackLoop:
    """Small steps from a random point of the ball, by default alpha = 2.5 eps / steps."""
    alpha = _default(alpha, 2.5 * ball.eps, steps)
    return AttackLoop(ball, steps, alpha, objective, random_start=random_start, restarts=restarts)


def mi_fgsm(
    ball: Ball,
    objective: Objective,
    *,
    steps: int = 10,
    alpha: float | None = None,
    decay: float = 1.0,
    random_start: bool = False,
    restarts: int = 1,
) -> AttackLoop:
    """Momentum over gradients of equal weight, by default alpha = eps / steps."""
    if decay < 0:
        raise InputError(f"decay: {decay} is negative")
    alpha = _default(alpha, ball.eps, steps)
    return AttackLoop(
        ball, steps, alpha, objective, momentum=_momentum(decay), random_start=random_start, restarts=restarts
    )


RECIPES = {
    "fgsm": Recipe("Goodfellow et al. 2015, arXiv:1412.6572", fgsm),
    "bim": Recipe("Kurakin et al. 2017, arXiv:1607.02533", bim),
    "pgd": Recipe("Madry et al. 2018, arXiv:1706.06083", pgd),
    "mi-fgsm": Recipe("Dong et al. 2018, arXiv:1710.06081", mi_fgsm),
}


def _default(alpha: float | None, reach: float, steps: int) -> float:
    if alpha is None:
        return reach / max(steps, 1)  # the loop refuses steps < 1
    if alpha <= 0:
        raise InputError(f"alpha: {alpha} is not positive")
    return alpha


def _momentum(decay: float) -> Momentum:
    """g <- decay * g + gradient / mean |gradient|, per image (Dong et al. 2018, eq. 6)."""

    def accumulate(accumulated: Tensor, gradient: Tensor) -> Tensor:
        tiny = torch.finfo(gradient.dtype).tiny  # a zero gradient stays zero
        scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=tiny)
        return decay * accumulated + gradient / scale

    return accumulate

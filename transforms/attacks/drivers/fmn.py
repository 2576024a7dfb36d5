"""FMN: a projected gradient step on the margin, inside a ball that closes in on the boundary."""

from dataclasses import dataclass, field

import torch

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.minimal import SETTLING, Best, annealed, dual_norm, judged_slope, settle, shrink, unit
from transforms.attacks.drivers.shared import bounded_in
from transforms.attacks.objectives import margin
from transforms.attacks.per_image import where
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import LOGIT_FUSIONS, Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import L2Length
from transforms.ranges import above, at_least, within


@dataclass(frozen=True, kw_only=True)
class FastMinimumNorm(BaseAttack):
    """Steps along the gradient of the margin, cut back to a radius that follows the distance to the boundary.

    Defaults are the paper's.

    Attributes:
        ball: L∞, L2 or L1.
        steps: iterations.
        alpha, alpha_final: length of the first step and of one after the last; None for alpha / 100.
        gamma, gamma_final: part by which the radius changes, likewise.
    """

    ball: Ball = field(kw_only=False)
    steps: int = 100
    alpha: L2Length = 1.0
    alpha_final: L2Length | None = None
    gamma: float = 0.05
    gamma_final: float = 0.001

    def __post_init__(self) -> None:
        bounded_in(self.ball, ["linf", "l2", "l1"])
        at_least(1, steps=self.steps)
        above(0, alpha=self.alpha, alpha_final=self._last_alpha)
        within("(0, 1)", gamma=self.gamma, gamma_final=self.gamma_final)

    @property
    def _last_alpha(self) -> float:
        return 0.01 * self.alpha if self.alpha_final is None else self.alpha_final

    def cost(self, models: int) -> tuple[int, int]:
        """With gradients in fp32; in reduced precision each step takes one more forward pass."""
        return models * (self.steps + SETTLING), models * self.steps

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        """Pintor et al. 2021, algorithm 1, from the clean image."""
        clean, goal, best = batch.clean, batch.goal, Best.none(batch.clean)
        perturbation, reach = torch.zeros_like(clean), torch.zeros_like(best.norms)
        radius = torch.full_like(best.norms, torch.inf)
        farthest = self.ball.length(torch.maximum(clean, 1 - clean))
        for step in range(self.steps):
            asked = surrogates.counting(best.open)
            if asked.idle:
                break
            gradient, reached, margins = judged_slope(asked, clean + perturbation, margin, goal)
            best.offer(perturbation, self.ball.length(perturbation), reached)
            gamma = annealed(self.gamma, self.gamma_final, step, self.steps)
            # To the boundary of the model made linear, until there is a success. That is measured from where the
            # perturbation would be without a box, and goes a little beyond: else it could stop short for good.
            to_boundary = margins.abs() / dual_norm(self.ball.norm, gradient).clamp(min=1e-12)
            further = (1 + gamma) * torch.where(best.norms.isfinite(), radius, reach + to_boundary)
            closer = torch.minimum((1 - gamma) * radius, best.norms)
            radius = torch.minimum(torch.where(reached, closer, further), farthest)
            alpha = annealed(self.alpha, self._last_alpha, step, self.steps)
            moved = shrink(self.ball.norm, perturbation + alpha * unit(gradient), radius)
            reach = self.ball.length(moved)
            perturbation = where(best.open, (clean + moved).clamp(0, 1) - clean, perturbation)
        return settle(surrogates, batch, self.ball, best, goal.reached)


RECIPES = {
    "fmn": Recipe("Pintor et al. 2021, arXiv:2102.12827", [FastMinimumNorm], kind="minimal-norm", fusions=LOGIT_FUSIONS)
}

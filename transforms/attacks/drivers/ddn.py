"""DDN: the direction follows the gradient, the norm follows success and failure."""

from dataclasses import dataclass, field

import torch

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.minimal import SETTLING, Best, annealed, judged_slope, settle, unit
from transforms.attacks.drivers.shared import bounded_in
from transforms.attacks.objectives import cross_entropy
from transforms.attacks.per_image import per_image, where
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import LOGIT_FUSIONS, Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import L2Length
from transforms.ranges import above, at_least, within


@dataclass(frozen=True, kw_only=True)
class DecoupledDirectionNorm(BaseAttack):
    """Steps along the gradient, put on a sphere that shrinks after each success and grows after each failure.

    Defaults are the paper's.

    Attributes:
        ball: L2.
        steps: iterations.
        init_norm: radius of the first sphere.
        gamma: part by which the radius changes.
        alpha, alpha_final: length of the first step and of one after the last.
    """

    ball: Ball = field(kw_only=False)
    steps: int = 100
    init_norm: L2Length = 1.0
    gamma: float = 0.05
    alpha: L2Length = 1.0
    alpha_final: L2Length = 0.01

    def __post_init__(self) -> None:
        bounded_in(self.ball, ["l2"])
        at_least(1, steps=self.steps)
        above(0, init_norm=self.init_norm, alpha=self.alpha, alpha_final=self.alpha_final)
        within("(0, 1)", gamma=self.gamma)

    def cost(self, models: int) -> tuple[int, int]:
        """With gradients in fp32; in reduced precision each step takes one more forward pass."""
        return models * (self.steps + SETTLING), models * self.steps

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        """Rony et al. 2019, algorithm 1, without its rounding at every step, which would hide small perturbations."""
        clean, goal, best = batch.clean, batch.goal, Best.none(batch.clean)
        perturbation, radius = torch.zeros_like(clean), torch.full_like(best.norms, self.init_norm)
        farthest = self.ball.length(torch.maximum(clean, 1 - clean))
        for step in range(self.steps):
            asked = surrogates.counting(best.open)
            if asked.idle:
                break
            gradient, reached, _ = judged_slope(asked, clean + perturbation, cross_entropy, goal)
            best.offer(perturbation, self.ball.length(perturbation), reached)
            direction = unit(gradient)
            flat = self.ball.length(direction) == 0
            if bool(flat.any()):  # a model so confident that its gradient vanished: anywhere
                noise = batch.draws.at("step", step).normal(clean.shape[1:], "direction").to(clean.device)
                direction = where(flat, unit(noise), direction)
            moved = perturbation + annealed(self.alpha, self.alpha_final, step, self.steps) * direction
            radius = torch.minimum(radius * torch.where(reached, 1 - self.gamma, 1 + self.gamma), farthest)
            on_sphere = moved * per_image(radius / self.ball.length(moved).clamp(min=1e-12))
            perturbation = where(best.open, (clean + on_sphere).clamp(0, 1) - clean, perturbation)
        return settle(surrogates, batch, self.ball, best, goal.reached)


RECIPES = {
    "ddn": Recipe(
        "Rony et al. 2019, arXiv:1811.09600",
        [DecoupledDirectionNorm],
        kind="minimal-norm",
        norms=("l2",),
        fusions=LOGIT_FUSIONS,
    )
}

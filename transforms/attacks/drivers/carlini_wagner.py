"""The attack of Carlini & Wagner in L2: distance and margin in one loss, weighed by a constant that is searched."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.minimal import SETTLING, Best, judged_slope, settle
from transforms.attacks.drivers.shared import bounded_in
from transforms.attacks.objectives import margin
from transforms.attacks.per_image import per_image, where
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import LOGIT_FUSIONS, Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.data.pixels import WHITE
from transforms.ranges import above, at_least

_DECAYS = (0.9, 0.999)
_TINY = 1e-8
"""Adam's, as in the authors' code."""
_INSIDE = 1 - 1e-6
"""Values are drawn into the open interval (0, 1) by this much, where tanh can be inverted."""
_CHECKS = 10
_PROGRESS = 0.9999


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(BaseAttack):
    """Minimises |perturbation|² + const · max(0, confidence - margin) by Adam, in tanh space, which knows no box
    (§6.1, with their f6).

    Defaults are those of the authors' code: up to 90,000 passes an image. A few hundred steps come close.

    Attributes:
        ball: L2.
        confidence: margin, in logits, that a success must have.
        steps: of Adam, for each constant.
        learning_rate: Adam's, in tanh space.
        binary_search_steps: constants tried; ten times as large until a success, then in the middle.
        initial_const: the first one.
        abort_early: whether an image's search with a constant ends when a tenth of the steps brought no progress.
    """

    ball: Ball = field(kw_only=False)
    confidence: float = 0.0
    steps: int = 10_000
    learning_rate: float = 0.01
    binary_search_steps: int = 9
    initial_const: float = 1e-3
    abort_early: bool = True

    def __post_init__(self) -> None:
        bounded_in(self.ball, ["l2"])
        at_least(1, steps=self.steps, binary_search_steps=self.binary_search_steps)
        at_least(0, confidence=self.confidence)
        above(0, learning_rate=self.learning_rate, initial_const=self.initial_const)

    def cost(self, models: int) -> tuple[int, int]:
        """With gradients in fp32; in reduced precision each step takes one more forward pass."""
        searched = self.binary_search_steps * self.steps
        return models * (1 + searched + SETTLING), models * searched

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        goal, best = batch.goal, Best.none(batch.clean)

        def confident(logits: Tensor) -> Tensor:
            return goal.reached(logits) & (margin(logits, goal) >= self.confidence)

        const = torch.full_like(best.norms, self.initial_const)
        low, high = torch.zeros_like(const), torch.full_like(const, torch.inf)
        clean = goal.reached(surrogates.logits(batch.clean))
        best.offer(torch.zeros_like(batch.clean), torch.zeros_like(best.norms), clean)
        for _ in range(self.binary_search_steps):
            enough = self._minimize(surrogates, batch, best, const)
            low, high = torch.where(enough, low, const), torch.where(enough, const, high)
            const = torch.where(high.isfinite(), (low + high) / 2, 10 * const)
        return settle(surrogates, batch, self.ball, best, confident)

    def _minimize(self, surrogates: Surrogates, batch: Batch, best: Best, const: Tensor) -> Tensor:
        """Adam with one constant per image, (B,). Offers what it finds; says where it found any, bool (B,)."""
        clean, goal = batch.clean, batch.goal
        point = _start(batch.canvases)
        first, second = torch.zeros_like(point), torch.zeros_like(point)
        running, enough = best.open, torch.zeros_like(best.open)
        loss_before = torch.full_like(const, torch.inf)
        for step in range(self.steps):
            asked = surrogates.counting(running)
            if asked.idle:
                break
            squashed = point.tanh()
            perturbation = (squashed + 1) / 2 - clean
            gradient, reached, margins = judged_slope(asked, clean + perturbation, margin, goal)
            norms, lacking = self.ball.length(perturbation), self.confidence - margins
            success = running & reached & (lacking <= 0)
            best.offer(perturbation, norms, success)
            enough = enough | success
            if self.abort_early and step % math.ceil(self.steps / _CHECKS) == 0:
                loss = norms**2 + const * lacking.clamp(min=0)
                running = running & (loss <= _PROGRESS * loss_before)
                loss_before = loss
            pull = per_image(torch.where(lacking > 0, const, 0)) * gradient
            slope = (2 * perturbation - pull) * (1 - squashed**2) / 2
            first = torch.lerp(slope, first, _DECAYS[0])
            second = torch.lerp(slope**2, second, _DECAYS[1])
            mean, square = (
                moment / (1 - decay ** (step + 1)) for moment, decay in zip((first, second), _DECAYS, strict=True)
            )
            point = where(running, point - self.learning_rate * mean / (square.sqrt() + _TINY), point)
        return enough


def _start(canvases: Tensor) -> Tensor:
    """Canvases, uint8, in tanh space. From a table: the kernel of atanh rounds by a value's place in the batch."""
    levels = torch.linspace(-1, 1, WHITE + 1, dtype=torch.float64) * _INSIDE
    return levels.atanh().float().to(canvases.device)[canvases.long()]


RECIPES = {
    "cw": Recipe(
        "Carlini & Wagner 2017, arXiv:1608.04644",
        [CarliniWagner],
        kind="minimal-norm",
        norms=("l2",),
        fusions=LOGIT_FUSIONS,
    )
}

"""The attack loop: gradient ascent inside a ball, with exchangeable parts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from transforms.attacks.balls import LEVELS, Ball
from transforms.attacks.objectives import Goal, Objective, cross_entropy
from transforms.attacks.randomness import Draws
from transforms.attacks.surrogates import Surrogates
from transforms.errors import InputError

Momentum = Callable[[Tensor, Tensor], Tensor]
"""(accumulated so far, gradient) -> accumulated, all (B, 3, H, W)."""
GradientFilter = Callable[[Tensor], Tensor]
"""Gradient (B, 3, H, W) -> gradient of the same shape."""


def no_momentum(_accumulated: Tensor, gradient: Tensor) -> Tensor:
    """Follows the gradient alone."""
    return gradient


def unfiltered(gradient: Tensor) -> Tensor:
    """Leaves the gradient as it is."""
    return gradient


@dataclass(frozen=True)
class AttackLoop:
    """Iterated gradient ascent on an objective inside a ball and the pixel box, ending on the 8-bit grid.

    Attributes:
        ball: the budget, and with it the direction of a step and the projection.
        steps: iterations per restart, >= 1.
        alpha: length of a step, in the unit of [0, 1] pixels.
        objective: what each step raises.
        gradient_filter: applied to each gradient before momentum.
        momentum: how gradients of earlier steps carry on.
        random_start: whether to begin at a random point of the ball instead of the image.
        restarts: independent runs; of each image the best is kept: one that reaches the goal before one that does
            not, then the one with the highest objective, then the earliest.
    """

    ball: Ball
    steps: int
    alpha: float
    objective: Objective = cross_entropy
    gradient_filter: GradientFilter = unfiltered
    momentum: Momentum = no_momentum
    random_start: bool = False
    restarts: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps: {self.steps} is less than 1")
        if self.restarts < 1:
            raise InputError(f"restarts: {self.restarts} is less than 1")
        if self.restarts > 1 and not self.random_start:
            raise InputError(f"restarts: {self.restarts} without a random start would repeat the same run")

    @property
    def cost(self) -> tuple[int, int]:
        """Forward and backward passes per image and window of a surrogate."""
        gradients = self.steps * self.restarts
        return gradients + (self.restarts if self.restarts > 1 else 0), gradients

    def __call__(self, surrogates: Surrogates, canvases: Tensor, goal: Goal, draws: Draws) -> Tensor:
        """Attacks a batch.

        Args:
            canvases: uint8 (B, 3, S, S) on the surrogates' device.
            goal: its tensors on the same device.
            draws: keyed by the images of this batch.

        Returns:
            Adversarial canvases, uint8 (B, 3, S, S), inside the budget.
        """
        best = self._run(surrogates, canvases, goal, draws, restart=0)
        if self.restarts == 1:
            return best
        reached, value = surrogates.judge(best.float() / LEVELS, self.objective, goal)
        for restart in range(1, self.restarts):
            candidate = self._run(surrogates, canvases, goal, draws, restart)
            now_reached, now_value = surrogates.judge(candidate.float() / LEVELS, self.objective, goal)
            better = (now_reached & ~reached) | ((now_reached == reached) & (now_value > value))
            best = torch.where(better.view(-1, 1, 1, 1), candidate, best)
            reached, value = reached | now_reached, torch.where(better, now_value, value)
        return best

    def _run(self, surrogates: Surrogates, canvases: Tensor, goal: Goal, draws: Draws, restart: int) -> Tensor:
        clean = canvases.float() / LEVELS
        perturbation = self.ball.start(canvases, draws, restart) if self.random_start else torch.zeros_like(clean)
        adversarial = (clean + perturbation).clamp(0, 1)
        accumulated = torch.zeros_like(clean)
        for _ in range(self.steps):
            gradient = self.gradient_filter(surrogates.gradient(adversarial, self.objective, goal))
            accumulated = self.momentum(accumulated, gradient)
            stepped = adversarial + self.alpha * self.ball.direction(accumulated)
            adversarial = (clean + self.ball.project(stepped - clean)).clamp(0, 1)
        return self.ball.to_grid(canvases, adversarial)

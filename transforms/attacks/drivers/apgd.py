"""Auto-PGD: projected gradient ascent whose step is halved where the objective stops growing."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.shared import Standing, best_others, bounded_in
from transforms.attacks.objectives import Goal, Objective, cross_entropy, dlr
from transforms.attacks.per_image import per_image, where
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.errors import InputError
from transforms.randomness import Draws
from transforms.ranges import above, at_least, within


@dataclass(frozen=True, kw_only=True)
class AutoPgd(BaseAttack, ABC):
    """APGD on any objective. An image is done at its first success.

    What fools the surrogates is rounded to 8 bits and shown to them again; it is a success if it still fools them.

    Attributes:
        ball: L∞ or L2.
        steps: of each run.
        restarts: runs from a random point.
        rho: part of the steps that must gain, lest the step be halved.
        step_weight: of the new step, in (0, 1]; the rest is the step before it (the paper's alpha).
    """

    ball: Ball = field(kw_only=False)
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    step_weight: float = 0.75

    def __post_init__(self) -> None:
        bounded_in(self.ball, ["linf", "l2"])
        at_least(1, steps=self.steps, restarts=self.restarts)
        above(0, rho=self.rho)
        within("(0, 1]", step_weight=self.step_weight)

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """What each run raises."""

    def _goals(self, surrogates: Surrogates, batch: Batch) -> list[Goal]:
        """What each run of a restart heads for."""
        return [batch.goal]

    def cost(self, models: int) -> tuple[int, int]:
        slopes = self.restarts * (self.steps + 1)
        return models * (1 + 2 * slopes), models * slopes

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        standing = Standing.begin(surrogates, batch)
        asked = surrogates.counting(standing.active)
        if not asked.idle:
            goals = self._goals(asked, batch)
            for restart in range(self.restarts):
                for number, goal in enumerate(goals):
                    draws = batch.draws.at("restart", restart, "target", number)
                    self._ascend(surrogates, batch, goal, draws, standing)
        return Found(standing.found(self.ball, batch.canvases))

    def _ascend(self, surrogates: Surrogates, batch: Batch, goal: Goal, draws: Draws, standing: Standing) -> None:
        """One run (Croce & Hein 2020, algorithm 1), with a state for each image."""
        ball, clean = self.ball, batch.clean
        point = clean + ball.project(ball.start(batch.canvases, draws), clean)
        before, length = point, torch.full((len(point),), 2 * ball.eps, device=point.device)
        # In this run: where the objective was highest, and the highest that was shown to the surrogates rounded.
        best, best_slope, best_value = point, torch.zeros_like(point), torch.full_like(length, -torch.inf)
        tested, last_value, best_at_check = best_value, best_value, best_value
        gains, halved = torch.zeros_like(length), torch.zeros_like(standing.active)
        checks = _checkpoints(self.steps)
        begun = 0
        for step in range(self.steps + 1):
            asked = surrogates.counting(standing.active)
            if asked.idle:
                return
            slope = asked.slope(point, self.objective, goal)
            value, gradient = slope.values, slope.gradient
            standing.improve(point, value)
            fools = batch.goal.reached(slope.logits) & (value > tested)
            if bool((fools & standing.active).any()):
                standing.test(surrogates, batch.goal, ball.to_grid(batch.canvases, point), fools)
                tested = torch.where(fools, value, tested)
            better = value > best_value
            best, best_slope = where(better, point, best), where(better, gradient, best_slope)
            best_value = torch.where(better, value, best_value)
            if step == 0:
                best_at_check = best_value
            else:
                gains = gains + (value > last_value)
            last_value = value
            if step in checks:
                stuck = ~halved & (best_value <= best_at_check)
                halved = (gains <= self.rho * (step - begun)) | stuck
                length = torch.where(halved, length / 2, length)
                point, gradient = where(halved, best, point), where(halved, best_slope, gradient)
                gains, best_at_check, begun = torch.zeros_like(gains), best_value, step
            moved = self._step(point, before, gradient, length, clean, 1.0 if step == 0 else self.step_weight)
            # Those that fell stay where they are, whatever their neighbours do.
            before, point = point, where(standing.active, moved, point)

    def _step(
        self, point: Tensor, before: Tensor, gradient: Tensor, length: Tensor, clean: Tensor, weight: float
    ) -> Tensor:
        """A step of `length`, (B,), mixed with the step before it (equation 4 and the line above it)."""
        ahead = self.ball.inside(point + per_image(length) * self.ball.direction(gradient, point), clean)
        return self.ball.inside(point + weight * (ahead - point) + (1 - weight) * (point - before), clean)


class ApgdCe(AutoPgd):
    """APGD on cross-entropy."""

    @property
    def objective(self) -> Objective:
        return cross_entropy


class ApgdDlr(AutoPgd):
    """APGD on the difference of logits ratio, whose gradient does not vanish as the model grows confident."""

    @property
    def objective(self) -> Objective:
        return dlr


@dataclass(frozen=True, kw_only=True)
class ApgdT(ApgdDlr):
    """APGD on the targeted difference of logits ratio, towards each of the likeliest wrong classes in turn.

    Attributes:
        target_classes: how many; each is a run of every restart.
    """

    target_classes: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, target_classes=self.target_classes)

    def cost(self, models: int) -> tuple[int, int]:
        slopes = self.restarts * self.target_classes * (self.steps + 1)
        return models * (2 + 2 * slopes), models * slopes

    def _goals(self, surrogates: Surrogates, batch: Batch) -> list[Goal]:
        if batch.goal.targets is not None:
            raise InputError("target: apgd-t takes none; it heads for the likeliest wrong classes")
        logits = surrogates.logits(batch.clean)
        others = best_others(logits, batch.goal.labels, min(self.target_classes, logits.shape[1] - 1))
        return [replace(batch.goal, targets=each) for each in others.unbind(dim=1)]


def _checkpoints(steps: int) -> frozenset[int]:
    """Steps at which the length may be halved: first after 22 % of them, then after ever fewer (§3.1), in whole
    steps as in the authors' code."""
    window, shorter, shortest = max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    found, at = [], window
    while at <= steps:
        found.append(at)
        window = max(window - shorter, shortest)
        at += window
    return frozenset(found)


_SOURCE = "Croce & Hein 2020, arXiv:2003.01690"
RECIPES = {
    "apgd-ce": Recipe(_SOURCE, [ApgdCe], norms=("linf", "l2")),
    "apgd-dlr": Recipe(_SOURCE, [ApgdDlr], norms=("linf", "l2")),
    "apgd-t": Recipe(_SOURCE, [ApgdT], norms=("linf", "l2"), goals="untargeted"),
}

"""Shared by drivers: which images still stand, which canvas is kept, what is between pixels, and the norms bounded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.objectives import Goal, margin
from transforms.attacks.per_image import where
from transforms.attacks.protocol import Batch
from transforms.attacks.surrogates import Surrogates
from transforms.data.pixels import WHITE
from transforms.errors import InputError


def on_grid(surrogates: Surrogates, canvases: Tensor) -> Tensor:
    """Logits (B, classes) of uint8 canvases, as they will be judged."""
    return surrogates.logits(canvases.float() / WHITE)


def best_others(logits: Tensor, classes: Tensor, count: int) -> Tensor:
    """The `count` likeliest classes, int64 (B, count), best first, other than `classes`, int64 (B,)."""
    return logits.scatter(1, classes[:, None], -torch.inf).topk(count, dim=1).indices


def sampled(canvases: Tensor, across: Tensor, down: Tensor, *, outside: Literal["zeros", "border"]) -> Tensor:
    """Canvases (B, 3, S, S) whose pixels come from elsewhere, bilinear between pixels; differentiable by all arguments.

    Args:
        across, down: (B, S, S), where each pixel comes from: columns and rows, from 0.
        outside: what is beyond the border: black, or the border's pixels.
    """
    # Plain sums and products, which unlike `affine_grid` round the same in any batch.
    grid = (2 * torch.stack([across, down], dim=3) + 1) / canvases.shape[-1] - 1
    return F.grid_sample(canvases, grid, "bilinear", outside, align_corners=False)


@dataclass
class Standing:
    """A fixed-budget attack in progress: which images stand, and what will be handed back.

    Attributes:
        active: bool (B,), no stored canvas was found yet that reaches the goal.
        canvases: uint8 (B, 3, S, S), the one that does; else the clean one.
        closest: float (B, 3, S, S), of those that stand, where the objective was highest.
        values: float (B,), the objective there.
    """

    active: Tensor
    canvases: Tensor
    closest: Tensor
    values: Tensor

    @classmethod
    def begin(cls, surrogates: Surrogates, batch: Batch) -> "Standing":
        """Images that are taken for what they should be when clean have fallen. One forward pass."""
        active = ~batch.goal.reached(surrogates.logits(batch.clean))
        return cls(active, batch.canvases, batch.clean, torch.full(active.shape, -torch.inf, device=active.device))

    def improve(self, adversarial: Tensor, values: Tensor) -> Tensor:
        """Remembers a better objective of images that stand; says whose, bool (B,)."""
        better = self.active & (values > self.values)
        self.closest = where(better, adversarial, self.closest)
        self.values = torch.where(better, values, self.values)
        return better

    def test(self, surrogates: Surrogates, goal: Goal, rounded: Tensor, who: Tensor) -> None:
        """Shows stored canvases of some images that stand, bool (B,), to the surrogates. Those that fool them fall.

        At most one forward pass, and none where no image is tested.
        """
        tested = who & self.active
        asked = surrogates.counting(tested)
        if not asked.idle:
            fallen = tested & goal.reached(on_grid(asked, rounded))
            self.canvases = where(fallen, rounded, self.canvases)
            self.active = self.active & ~fallen

    def found(self, ball: Ball, canvases: Tensor) -> Tensor:
        """The result: uint8 (B, 3, S, S)."""
        return where(self.active, ball.to_grid(canvases, self.closest), self.canvases)


@dataclass
class Shown:
    """What the victim was shown, and which of it will be handed back: of each image the first that reaches the goal, or
    else the one of which the victim's margin is best, and of equals the first.

    Attributes:
        victim: who is asked.
        goal: the classes that count as success.
        standing: bool (B,), nothing that reaches the goal was shown yet.
        canvases: uint8 (B, 3, S, S), what is kept.
        best: float (B,), the victim's margin there; of images of which nothing was shown, -inf.
    """

    victim: Surrogates
    goal: Goal
    standing: Tensor
    canvases: Tensor
    best: Tensor

    @classmethod
    def begin(cls, batch: Batch) -> "Shown":
        if batch.victim is None:
            raise ValueError("there is no victim to ask")
        standing = torch.ones(len(batch.canvases), dtype=torch.bool, device=batch.canvases.device)
        best = torch.full(standing.shape, -torch.inf, device=standing.device)
        return cls(batch.victim, batch.goal, standing, batch.canvases, best)

    def show(self, canvases: Tensor) -> Tensor:
        """Asks about a stored canvas of each image that stands, uint8 (B, 3, S, S), at a query each; the victim's
        margins, float (B,)."""
        reached, margins = self.victim.counting(self.standing).judge(canvases.float() / WHITE, margin, self.goal)
        better = self.standing & (reached | (margins > self.best) | (self.best == -torch.inf))
        self.canvases, self.best = where(better, canvases, self.canvases), torch.where(better, margins, self.best)
        self.standing = self.standing & ~reached
        return margins


def bounded_in(ball: Ball, norms: Sequence[str]) -> None:
    """Refuses a ball of another norm."""
    if ball.norm not in norms:
        raise InputError(f"norm: {ball.norm} cannot be bounded by this attack; it bounds {' or '.join(norms)}")

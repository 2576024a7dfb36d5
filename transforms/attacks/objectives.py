"""Objectives: what an attack makes as large as it can, per image."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Goal:
    """What a batch of images should be taken for.

    Attributes:
        labels: int64 (B,), the true classes.
        targets: int64 (B,), the classes wanted by a targeted attack; None if any wrong class will do.
    """

    labels: Tensor
    targets: Tensor | None = None

    def reached(self, logits: Tensor) -> Tensor:
        """Whether (B, classes) logits mean success: bool (B,)."""
        predicted = logits.argmax(dim=1)
        return predicted != self.labels if self.targets is None else predicted == self.targets


Objective = Callable[[Tensor, Goal], Tensor]
"""(logits (B, classes), goal) -> (B,), larger is better for the attacker."""


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """Cross-entropy with the true class, or its negative with the wanted class (Goodfellow et al. 2015, §4)."""
    if goal.targets is None:
        return F.cross_entropy(logits, goal.labels, reduction="none")
    return -F.cross_entropy(logits, goal.targets, reduction="none")


OBJECTIVES: dict[str, Objective] = {"cross-entropy": cross_entropy}

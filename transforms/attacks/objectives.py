"""Objectives: the value per image that an attack maximises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Goal:
    """The classes that count as success, for a batch of images.

    Attributes:
        labels: int64 (B,), the true classes.
        targets: int64 (B,), the classes wanted by a targeted attack; None if any wrong class will do.
    """

    labels: Tensor
    targets: Tensor | None = None

    def reached(self, logits: Tensor) -> Tensor:
        """Whether (B, classes) logits mean success: bool (B,). Never if they are not numbers."""
        predicted = logits.argmax(dim=1)
        reached = predicted != self.labels if self.targets is None else predicted == self.targets
        return reached & ~logits.isnan().any(dim=1)


_LEAST_MARGIN = 0.01

Objective = Callable[[Tensor, Goal], Tensor]
"""(logits (B, classes), goal) -> (B,), larger is better for the attacker."""


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """Cross-entropy with the true class, or its negative with the wanted class (Goodfellow et al. 2015, §4)."""
    if goal.targets is None:
        return F.cross_entropy(logits, goal.labels, reduction="none")
    return -F.cross_entropy(logits, goal.targets, reduction="none")


def logit(logits: Tensor, goal: Goal) -> Tensor:
    """The wanted class's logit, or the negative of the true one's (Zhao et al. 2021, arXiv:2012.11207).

    Its gradient does not vanish as the model grows confident.
    """
    if goal.targets is None:
        return -_picked(logits, goal.labels)
    return _picked(logits, goal.targets)


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """The best wrong logit less the true one, or the wanted logit less the best other (Carlini & Wagner 2017, f6).

    Positive exactly where the goal is reached.
    """
    if goal.targets is None:
        return _best_other(logits, goal.labels) - _picked(logits, goal.labels)
    return _picked(logits, goal.targets) - _best_other(logits, goal.targets)


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    """Difference of logits ratio, untargeted or targeted (Croce & Hein 2020, arXiv:2003.01690, eqs. 6 and 7).

    Does not change when all logits are multiplied or shifted by the same number. Needs three classes, and four
    where targeted.
    """
    ordered = logits.sort(dim=1, descending=True).values
    if goal.targets is None:
        spread = ordered[:, 0] - ordered[:, 2]
    else:
        spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    numerator = (_best_other(logits, goal.labels) if goal.targets is None else _picked(logits, goal.targets)) - _picked(
        logits, goal.labels
    )
    return numerator / (spread + 1e-12)


def calibrated_cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """Cross-entropy of logits divided by the margin between the two largest, a constant for the gradient
    (Weng et al. 2023, arXiv:2303.03680); a margin below 0.01 counts as that, because ties, common in reduced precision,
    have none."""
    best = logits.detach().topk(2, dim=1).values
    return cross_entropy(logits / (best[:, :1] - best[:, 1:]).clamp(min=_LEAST_MARGIN), goal)


ObjectiveName = Literal["cross-entropy", "logit", "logit-margin", "margin", "dlr"]
OBJECTIVES: dict[str, Objective] = dict(
    zip(get_args(ObjectiveName), (cross_entropy, logit, calibrated_cross_entropy, margin, dlr), strict=True)
)


def _picked(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _best_other(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)

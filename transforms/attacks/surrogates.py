"""Surrogates: the models whose gradients an attack follows, seen through a view and fused into one."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from transforms.attacks.objectives import Goal, Objective
from transforms.models.classifier import Classifier
from transforms.models.views import View, look

Fusion = Literal["logits", "probabilities", "losses"]
FUSIONS: tuple[str, ...] = get_args(Fusion)


class Surrogates:
    """One or more classifiers, attacked as one, counting what is asked of them.

    Attributes:
        forwards, backwards: passes of one network over one window, so far, per image of the batch.
        finite: bool (B,), whether every gradient of the image was finite so far; None before the first gradient.
            A gradient that is not counts as zero, so that one broken image does not stop the others.
    """

    def __init__(self, classifiers: Sequence[Classifier], view: View, field: float, fuse: Fusion = "logits") -> None:
        """`field` is the part of the image's centre square that the canvases hold; `fuse` says what is averaged."""
        self._classifiers = tuple(classifiers)
        self._view = view
        self._field = field
        self._fuse = fuse
        self.forwards = 0
        self.backwards = 0
        self.finite: Tensor | None = None

    def logits(self, canvases: Tensor) -> Tensor:
        """Fused logits (B, classes), up to a constant per row, of float canvases (B, 3, S, S) in [0, 1]."""
        return self._fused(self._looks(canvases))

    def judge(self, canvases: Tensor, objective: Objective, goal: Goal) -> tuple[Tensor, Tensor]:
        """Whether each image reaches the goal, bool (B,), and its objective (B,), the one that `gradient` climbs."""
        with torch.no_grad():
            looks = self._looks(canvases)
            return goal.reached(self._fused(looks)), self._values(looks, objective, goal)

    def gradient(self, canvases: Tensor, objective: Objective, goal: Goal) -> Tensor:
        """Gradient of each image's objective with respect to its own pixels, (B, 3, S, S)."""
        canvases = canvases.detach().requires_grad_()
        values = self._values(self._looks(canvases), objective, goal)
        # Images do not interact in an evaluation-mode network: the gradient of the sum holds each image's own.
        (gradient,) = torch.autograd.grad(values.sum(), canvases)
        self.backwards += self._passes(canvases)
        finite = gradient.isfinite().flatten(1).all(dim=1)
        self.finite = finite if self.finite is None else self.finite & finite
        return torch.where(finite.view(-1, 1, 1, 1), gradient, 0)

    def _looks(self, canvases: Tensor) -> list[Tensor]:
        self.forwards += self._passes(canvases)
        return [look(each, self._view, canvases, self._field) for each in self._classifiers]

    def _values(self, looks: list[Tensor], objective: Objective, goal: Goal) -> Tensor:
        if self._fuse == "losses":
            return torch.stack([objective(each, goal) for each in looks]).mean(dim=0)
        return objective(self._fused(looks), goal)

    def _fused(self, looks: list[Tensor]) -> Tensor:
        if len(looks) == 1:
            return looks[0]
        if self._fuse == "probabilities":
            log_probabilities = torch.stack([each.log_softmax(dim=1) for each in looks])
            return log_probabilities.logsumexp(dim=0) - math.log(len(looks))
        return torch.stack(looks).mean(dim=0)

    def _passes(self, canvases: Tensor) -> int:
        return len(self._classifiers) * len(self._view(canvases, canvases.shape[-1]))

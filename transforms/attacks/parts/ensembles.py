"""Estimators for ensembles: gradients of several surrogates, combined otherwise than by an average."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.balls import Ball, L2Ball
from transforms.attacks.gradients import Gradients
from transforms.attacks.parts.estimators import BaseEstimator, Estimate
from transforms.attacks.parts.momentum import mean_normalized, momentum
from transforms.randomness import Draws
from transforms.ranges import above, at_least, within


@dataclass(frozen=True)
class VarianceReduction(BaseEstimator):
    """SVRE: an inner loop follows one random surrogate at a time, corrected by how its gradient differs from the
    ensemble's at the outer point (Xiong et al. 2022, arXiv:2111.10752, algorithm 1).

    The surrogate of an inner step is the same for all images of an experiment, so that a batch asks only one; where
    gradients are random, an outer point's are drawn once per step.

    Attributes:
        alpha: length of an inner step.
        inner_decay: of the inner momentum.
        inner_steps: per step; None for four times the surrogates.
    """

    ball: Ball
    alpha: float
    inner_decay: float
    inner_steps: int | None
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.inner_steps is not None:
            at_least(2, inner_steps=self.inner_steps)  # the first is the ensemble's gradient
        at_least(0, inner_decay=self.inner_decay)
        above(0, inner_alpha=self.alpha)

    def _inner(self, models: int) -> int:
        return 4 * models if self.inner_steps is None else self.inner_steps

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            members, clean = gradients.members, gradients.batch.clean
            ensemble = gradients.at(points, draws)
            outer = [each.at(points, draws.at("outer", number)) for number, each in enumerate(members)]
            count = self._inner(len(members))
            accumulate, accumulated, inner = momentum(self.inner_decay)(), ensemble, points
            for number, chosen in enumerate(draws.shared.integers(len(members), (count,), "member")[0].tolist()):
                gradient = members[chosen].at(inner, draws.at("inner", number))
                accumulated = accumulate(gradient - outer[chosen] + ensemble)
                inner = self.ball.inside(inner + self.alpha * self.ball.direction(accumulated, inner), clean)
            return accumulated

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        gradients = steps * copies * (2 * models + self._inner(models))
        return gradients, gradients


@dataclass(frozen=True)
class AdaptiveEnsemble(BaseEstimator):
    """AdaEA: surrogates whose small step raises the others' losses most get more weight, and pixels on which the
    surrogates' gradients disagree get none (Chen et al. 2023, arXiv:2308.02897). Weights are per image.

    Attributes:
        alpha: length of each surrogate's small step.
        beta: how strongly weights differ.
        threshold: the mean cosine similarity of gradients at a pixel below which it gets none.
    """

    ball: Ball
    alpha: float
    beta: float
    threshold: float
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above(0, ensemble_beta=self.beta)
        within("(-1, 1]", threshold=self.threshold)  # none is below -1

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            alone = [each.at(points, draws) for each in gradients.members]
            weighed = gradients.surrogates.weighed(self._weights(gradients, points, alone, draws))
            gradient = replace(gradients, surrogates=weighed).at(points, draws)
            return gradient * (self._agreement(alone) >= self.threshold)

        return estimate

    def _weights(self, gradients: Gradients, points: Tensor, alone: Sequence[Tensor], draws: Draws) -> Tensor:
        """(models, B), which sum to 1 over the models; behind a random defence, of one draw that all models share."""
        clean, goal = gradients.batch.clean, gradients.batch.goal
        members = gradients.surrogates.redrawn(draws.at("weights")).members
        steps = [self.alpha * self.ball.direction(each, points) for each in alone]
        moved = [self.ball.inside(points + step, clean) for step in steps]
        losses = torch.stack(
            [torch.stack([member.judge(each, gradients.objective, goal)[1] for member in members]) for each in moved]
        )  # (whose step, whose loss, B)
        ratios = losses / losses.diagonal().T.clamp(min=torch.finfo(losses.dtype).tiny)
        return torch.softmax(self.beta * (ratios.sum(dim=1) - ratios.diagonal().T), dim=0)

    def _agreement(self, gradients: Sequence[Tensor]) -> Tensor:
        """Mean cosine similarity over pairs of models, (B, 1, S, S)."""
        normalized = [mean_normalized(each) for each in gradients]  # squares of tiny ones would vanish
        pairs = [
            F.cosine_similarity(one, other, dim=1, eps=0.0).nan_to_num() for one, other in combinations(normalized, 2)
        ]
        return torch.stack(pairs).mean(dim=0).unsqueeze(1)

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        gradients = 2 * steps * copies * models
        return gradients + steps * models**2, gradients


@dataclass(frozen=True)
class Reweighing(BaseEstimator):
    """SMER: an inner loop follows one surrogate at a time, in a random order, whose logits are multiplied by a weight;
    the weights follow the ensemble's objective (Tang et al. 2024, "Ensemble Diversity Facilitates Adversarial
    Transferability", CVPR). Weights are per image, begin at 1 and last the whole run.

    The order is the same for all images of an experiment, so that a batch asks only one surrogate for a gradient.

    Attributes:
        alpha: length of an inner step.
        inner_decay: of the inner momentum.
        rounds: how often each surrogate is followed per step.
        rate: how fast weights change.
        shrinkage: the part of the rate by which they tend to 0 (weight decay).
    """

    ball: Ball
    alpha: float
    inner_decay: float
    rounds: int
    rate: float
    shrinkage: float
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, inner_rounds=self.rounds)
        at_least(0, inner_decay=self.inner_decay, weight_decay=self.shrinkage)
        above(0, weight_rate=self.rate)

    def begin(self) -> Estimate:
        weights: Tensor | None = None

        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            nonlocal weights
            members, clean = gradients.members, gradients.batch.clean
            if weights is None:
                weights = points.new_ones(len(members), len(points))
            accumulate, inner, accumulated = momentum(self.inner_decay)(), points, torch.zeros_like(points)
            for number in range(self.rounds):
                path = draws.at("round", number)
                for chosen in path.shared.permutation(len(members), "members")[0].tolist():
                    weighed = members[chosen].surrogates.weighed(weights[chosen : chosen + 1])
                    gradient = replace(gradients, surrogates=weighed).at(inner, path.at("member", chosen))
                    weights = self._reweighed(weights, gradients, inner, path.at("member", chosen))
                    accumulated = accumulate(gradient)
                    inner = self.ball.inside(inner + self.alpha * self.ball.direction(accumulated, inner), clean)
            return accumulated

        return estimate

    def _reweighed(self, weights: Tensor, gradients: Gradients, points: Tensor, draws: Draws) -> Tensor:
        """A step down -log of the objective of the mean weighed logits."""
        members = gradients.surrogates.redrawn(draws.at("weights")).members
        logits = torch.stack([each.logits(points) for each in members])
        weights = weights.detach().requires_grad_()
        values = gradients.objective((weights[..., None] * logits).mean(dim=0), gradients.batch.goal)
        falling = -values.clamp(min=torch.finfo(values.dtype).tiny).log().sum()
        (slope,) = torch.autograd.grad(falling, weights)
        return (weights - self.rate * (slope + self.shrinkage * weights)).detach()

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        inner = steps * self.rounds * models
        return inner * (copies + models), inner * copies


@dataclass(frozen=True)
class CommonWeakness(BaseEstimator):
    """CWA: a small step downhill, then one uphill for each surrogate in turn; their sum is followed
    (Chen et al. 2024, arXiv:2303.09105, algorithm 1: MI-CWA).

    Attributes:
        reverse: length of the step downhill.
        inner: length of the steps uphill, for gradients of unit L2 norm.
        decay: of the inner momentum, which lasts the whole run.
    """

    ball: Ball
    reverse: float
    inner: float
    decay: float
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        above(0, reverse_step=self.reverse, inner_step=self.inner)

    def begin(self) -> Estimate:
        accumulated: Tensor | float = 0.0

        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            nonlocal accumulated
            clean = gradients.batch.clean
            ensemble = gradients.at(points, draws)
            moving = self.ball.inside(points - self.reverse * self.ball.direction(ensemble, points), clean)
            for number, member in enumerate(gradients.members):
                gradient = member.at(moving, draws.at("member", number))
                accumulated = self.decay * accumulated + L2Ball.normalized(gradient)
                moving = self.ball.inside(moving + self.inner * accumulated, clean)
            return moving - points

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return 2 * steps * models * copies, 2 * steps * models * copies

"""Features as the objective: what a layer of each surrogate answers, weighed by how much it matters.

A new one is a class here that makes an objective of features once per run, and its link in `recipes/parts.py`.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.gradients import Gradients, Way
from transforms.attacks.inside import Inside
from transforms.attacks.objectives import Goal, Objective, cross_entropy, logit
from transforms.attacks.protocol import Batch
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import LayerNames
from transforms.models.classifier import Classifier
from transforms.randomness import Draws
from transforms.ranges import above, at_least, within


@dataclass(frozen=True)
class FeatureObjective:
    """Follows one objective of the features from the first step of a run to the last; of several surrogates the mean.

    Attributes:
        layer: whose features.
    """

    layer: LayerNames
    random: ClassVar[bool] = False
    redraws: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    own_objective: ClassVar[bool] = True

    def begin(self) -> Callable[[Gradients, Tensor, Draws], Way]:
        way: Way | None = None

        def renew(gradients: Gradients, _canvases: Tensor, draws: Draws) -> Way:
            nonlocal way
            way = way or self._followed(gradients, draws)
            return way

        return renew

    def _followed(self, gradients: Gradients, draws: Draws) -> Way:
        seen = {
            classifier: Inside(layer=member.layer, objective=self._objective(member, gradients.batch, draws))
            for classifier, member in gradients.surrogates.at(self.layer).items()
        }
        return _each(seen)

    def _objective(self, member: Surrogates, batch: Batch, draws: Draws) -> Objective:
        """An objective of a layer's features, (features (B, ...), goal) -> (B,).

        Args:
            member: one of the surrogates, with the layer in its place.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FeatureImportance(FeatureObjective):
    """FIA: features, weighed by the mean gradient of the wanted logit, or less the true one, of clean canvases of which
    random values are black (Wang et al. 2021, arXiv:2107.14185, eqs. 3 to 5).

    Attributes:
        ensemble_number: how many such canvases.
        drop_probability: of each value, to be black.
    """

    ensemble_number: int
    drop_probability: float
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, ensemble_number=self.ensemble_number)
        within("(0, 1)", drop_probability=self.drop_probability)

    def _objective(self, member: Surrogates, batch: Batch, draws: Draws) -> Objective:
        total = torch.zeros(())
        for number in range(self.ensemble_number):
            path = draws.at("mask", number)
            masked = batch.clean * self._mask(number, batch.clean.shape[1:], path).to(batch.clean)
            total = total + member.redrawn(path.at("defense")).sensitivity(masked, logit, batch.goal)
        return weighed(total)

    def _mask(self, number: int, shape: Sequence[int], draws: Draws) -> Tensor:
        return (draws.uniform(shape, "kept") >= self.drop_probability).float()

    def passes(self, steps: int, models: int, copies: int, forwards: int) -> tuple[int, int]:
        return self.ensemble_number * models, self.ensemble_number * models


class RandomPatches(FeatureImportance):
    """RPA: the same of clean canvases that are multiplied by random numbers in random patches of each channel; patches
    are 1, 3, 5 and 7 pixels wide in turn (Zhang et al. 2022, "Enhancing the Transferability of Adversarial Examples
    with Random Patch", IJCAI)."""

    def _mask(self, number: int, shape: Sequence[int], draws: Draws) -> Tensor:
        channels, side, _ = shape
        size = _PATCHES[number % len(_PATCHES)]
        patches = -(-side // size)
        chosen = draws.uniform((channels, patches, patches), "patches") < self.drop_probability
        chosen = chosen.repeat_interleave(size, 2).repeat_interleave(size, 3)[..., :side, :side]
        return torch.where(chosen, draws.uniform(shape, "factors"), 1.0)


_PATCHES = (1, 3, 5, 7)


@dataclass(frozen=True)
class NeuronAttribution(FeatureObjective):
    """NAA: how much each feature adds to the class's probability, integrated on the way from a black canvas; what
    speaks against the class counts gamma times (Zhang et al. 2022, arXiv:2204.00008, eqs. 8 to 11).

    Attributes:
        integrated_steps: gradients on the way.
        gamma: weight of negative attributions.
    """

    integrated_steps: int
    gamma: float

    def __post_init__(self) -> None:
        at_least(1, integrated_steps=self.integrated_steps)
        at_least(0, gamma=self.gamma)

    def _objective(self, member: Surrogates, batch: Batch, draws: Draws) -> Objective:
        clean, member = batch.clean, member.redrawn(draws.at("defense"))
        base, total = member.features(torch.zeros_like(clean)), torch.zeros(())
        for number in range(1, self.integrated_steps + 1):
            total = total + member.sensitivity(clean * number / self.integrated_steps, _probability, batch.goal)
        unit = _unit(total)

        def objective(features: Tensor, goal: Goal) -> Tensor:
            values = (features - base) * unit
            speaks_for = values <= 0 if goal.targets is None else values >= 0
            return torch.where(speaks_for, values, self.gamma * values).flatten(1).sum(dim=1)

        return objective

    def passes(self, steps: int, models: int, copies: int, forwards: int) -> tuple[int, int]:
        return (1 + self.integrated_steps) * models, self.integrated_steps * models


@dataclass(frozen=True)
class FittedFeatures(FeatureObjective):
    """BFA: features, weighed by the mean gradient of the wanted logit, or less the true one, of canvases that go a long
    way uphill, each from the clean one along the gradient at the one before (Wang et al. 2024, "Improving the
    Transferability of Adversarial Examples Through Black-Box Feature Attacks", Neurocomputing).

    Attributes:
        ensemble_number: how many such canvases.
        eta: how long the way is, in L2.
    """

    ensemble_number: int
    eta: float

    def __post_init__(self) -> None:
        at_least(1, ensemble_number=self.ensemble_number)
        above(0, eta=self.eta)

    def _objective(self, member: Surrogates, batch: Batch, draws: Draws) -> Objective:
        return weighed(self._fitted(member, batch.clean, batch.goal, draws))

    def _fitted(self, member: Surrogates, points: Tensor, goal: Goal, draws: Draws) -> Tensor:
        """The gradient (B, ...) of the features, added up over all canvases, of a length of 1."""
        fitted, total = points, torch.zeros(())
        for number in range(self.ensemble_number):
            asked = member.redrawn(draws.at("defense", number))
            fitted = points + self.eta * _unit(asked.whole.slope(fitted, cross_entropy, goal).gradient)
            total = total + asked.sensitivity(fitted, logit, goal)
        return _unit(total)

    def passes(self, steps: int, models: int, copies: int, forwards: int) -> tuple[int, int]:
        return 2 * self.ensemble_number * models, 2 * self.ensemble_number * models


@dataclass(frozen=True)
class PixelToFeature(FittedFeatures):
    """P2FA: the same, found anew at the adversarial canvas every few steps and added to what was found before (Liu et
    al. 2025, "Pixel2Feature Attack (P2FA): Rethinking the Perturbed Space to Enhance Adversarial Transferability",
    ICML).

    The paper moves the features themselves, and canvases to where their features are nearest to these. The authors'
    move is so long that it comes to following its direction.

    Attributes:
        inner_steps: steps between two times.
        feature_decay: of what was found before.
    """

    inner_steps: int
    feature_decay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, inner_steps=self.inner_steps)
        at_least(0, feature_decay=self.feature_decay)

    def begin(self) -> Callable[[Gradients, Tensor, Draws], Way]:
        steps, memory = itertools.count(), dict[Classifier, Tensor]()
        seen: dict[Classifier, Inside] = {}

        def renew(gradients: Gradients, canvases: Tensor, draws: Draws) -> Way:
            if next(steps) % self.inner_steps == 0:
                for classifier, member in gradients.surrogates.at(self.layer).items():
                    found = self._fitted(member, canvases, gradients.batch.goal, draws)
                    memory[classifier] = found + self.feature_decay * memory.get(classifier, torch.zeros_like(found))
                    seen[classifier] = Inside(layer=member.layer, objective=weighed(memory[classifier]))
            return _each(seen)

        return renew

    def passes(self, steps: int, models: int, copies: int, forwards: int) -> tuple[int, int]:
        times = -(-steps // self.inner_steps)
        once, back = super().passes(steps, models, copies, forwards)
        return times * once, times * back


@dataclass(frozen=True)
class IntermediateLevel(FeatureObjective):
    """ILA: features, as far as they go the way on which a first attack took them (Huang et al. 2019, arXiv:1907.10823,
    ILA projection loss). The first attack climbs the loop's objective by I-FGSM.

    Attributes:
        ball: the budget.
        alpha: length of a step of the first attack.
        reference_steps: how many.
    """

    ball: Ball
    alpha: float
    reference_steps: int
    own_objective: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(1, reference_steps=self.reference_steps)

    def _followed(self, gradients: Gradients, draws: Draws) -> Way:
        clean = reference = gradients.batch.clean
        for number in range(self.reference_steps):
            gradient = gradients.at(reference, draws.at("reference", number))
            reference = self.ball.inside(reference + self.alpha * self.ball.direction(gradient, reference), clean)
        seen = {}
        for classifier, member in gradients.surrogates.redrawn(draws.at("defense")).at(self.layer).items():
            way = weighed(member.features(reference) - member.features(clean))
            seen[classifier] = Inside(layer=member.layer, objective=way)
        return _each(seen)

    def passes(self, steps: int, models: int, copies: int, forwards: int) -> tuple[int, int]:
        return (self.reference_steps * copies + 2) * models, self.reference_steps * copies * models


def weighed(weights: Tensor) -> Objective:
    """Features times weights (B, ...), these at a length of 1 for each image."""
    unit = _unit(weights)
    return lambda features, _goal: (features * unit).flatten(1).sum(dim=1)


def _unit(values: Tensor) -> Tensor:
    """Each image's values (B, ...) at a length of 1 in L2; 0 stays 0."""
    return F.normalize(values.flatten(1), eps=_LEAST).view_as(values)


_LEAST = 1e-30
"""Gradients of a network that is sure of its answer may be very short, and need a direction all the same."""


def _probability(logits: Tensor, goal: Goal) -> Tensor:
    """The wanted class's, or less that of the true one."""
    return logit(logits.softmax(dim=1), goal)


def _each(seen: Mapping[Classifier, Inside]) -> Way:
    """Each of the surrogates alone, with this done inside."""
    return lambda surrogates, _draws: tuple(each.seen(seen) for each in surrogates.members)

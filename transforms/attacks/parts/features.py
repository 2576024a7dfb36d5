"""Features as the objective: what a layer of each surrogate answers, weighed by how much it matters.

A new one is a class here that makes an objective of features once per run, and its link in `recipes/parts.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.gradients import Gradients, Way
from transforms.attacks.objectives import Objective, logit
from transforms.attacks.surrogates import Inside, Surrogates
from transforms.attacks.units import LayerNames
from transforms.randomness import Draws
from transforms.ranges import at_least, within


@dataclass(frozen=True)
class FeatureObjective:
    """Follows one objective of the features from the first step of a run to the last; of several surrogates the mean.

    Attributes:
        layer: whose features.
    """

    layer: LayerNames
    random: ClassVar[bool] = True
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
            classifier: Inside(layer=member.layer, objective=self._objective(member, gradients, draws))
            for classifier, member in gradients.surrogates.at(self.layer).items()
        }
        return lambda surrogates, _draws: tuple(each.seen(seen) for each in surrogates.members)

    def _objective(self, member: Surrogates, gradients: Gradients, draws: Draws) -> Objective:
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

    def __post_init__(self) -> None:
        at_least(1, ensemble_number=self.ensemble_number)
        within("[0, 1)", drop_probability=self.drop_probability)

    def _objective(self, member: Surrogates, gradients: Gradients, draws: Draws) -> Objective:
        clean, goal = gradients.batch.clean, gradients.batch.goal
        total = torch.zeros(())
        for number in range(self.ensemble_number):
            path = draws.at("mask", number)
            kept = path.uniform(clean.shape[1:], "kept").to(clean) >= self.drop_probability
            total = total + member.redrawn(path.at("defense")).sensitivity(clean * kept, logit, goal)
        return weighed(total)

    def passes(self, steps: int, models: int, forwards: int) -> tuple[int, int]:
        return self.ensemble_number * models, self.ensemble_number * models


def weighed(weights: Tensor) -> Objective:
    """Features times weights (B, ...), these at a length of 1 for each image."""
    unit = F.normalize(weights.flatten(1), eps=_LEAST)
    return lambda features, _goal: (features.flatten(1) * unit).sum(dim=1)


_LEAST = 1e-30
"""Gradients of a network that is sure of its answer may be very short, and need a direction all the same."""

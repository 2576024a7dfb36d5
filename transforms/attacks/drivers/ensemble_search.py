"""BASES: an ensemble of surrogates whose weights follow what another model answers."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.shared import Shown
from transforms.attacks.loop import AttackLoop
from transforms.attacks.objectives import OBJECTIVES, ObjectiveName
from transforms.attacks.parts.momentum import momentum
from transforms.attacks.per_image import where
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.units import Length, Memory
from transforms.ranges import at_least, within


@dataclass(frozen=True, kw_only=True)
class EnsembleSearch(BaseAttack):
    """Searches the weights of an ensemble, each image its own, by what the victim says of what the ensemble makes
    (Cai et al. 2022, arXiv:2208.03610, algorithm 1).

    The first query is about what equal weights make of the image. Then the surrogates have their turns: one's weight is
    raised and lowered, the perturbation goes on under either from where it was, and the one of which the victim's
    margin is better is where the next surrogate's turn begins. The first canvas that reaches the goal ends the search.
    Where none does, the one is kept of which the victim's margin is best. Everything that was shown, and whatever a
    turn begins with, is a stored canvas of 8 bits.

    Attributes:
        machine: what makes a perturbation by the weights (the paper's perturbation machine).
        queries: stored canvases that the victim is shown for an image, at most.
        learning_rate: by how much a weight is raised or lowered, in (0, 1); the weights, none below 0, sum to 1.
    """

    machine: AttackLoop
    queries: int
    learning_rate: float

    def __post_init__(self) -> None:
        at_least(1, queries=self.queries)
        within("(0, 1)", learning_rate=self.learning_rate)  # of 1, all weights could become 0

    @property
    def steps(self) -> int:
        """Of all perturbations of an image that withstands."""
        return self.queries * self.machine.steps

    def cost(self, models: int) -> tuple[int, int]:
        """Of an image that withstands all queries, with a pass of the victim for each."""
        forwards, backwards = self.machine.cost(models)
        return self.queries * (forwards + 1), self.queries * backwards

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        shown, models = Shown.begin(batch), len(surrogates)
        current = self._made(surrogates, batch, 0, None)
        shown.show(current)
        weights = torch.full((models, len(current)), 1 / models, device=current.device)
        for turn in range(self.queries // 2):
            tried = []
            for number, change in enumerate((self.learning_rate, -self.learning_rate), start=2 * turn + 1):
                following = surrogates.counting(shown.standing)
                if following.idle or number == self.queries:
                    return Found(shown.canvases)
                moved = _moved(weights, turn % models, change)
                canvases = self._made(following.weighed(moved), batch, number, current)
                tried.append((shown.show(canvases), canvases, moved))
            (above, raised, more), (below, lowered, less) = tried
            better = above > below
            current, weights = where(better, raised, lowered), torch.where(better, more, less)
        return Found(shown.canvases)

    def _made(self, surrogates: Surrogates, batch: Batch, number: int, start: Tensor | None) -> Tensor:
        """The canvases of a query, uint8 (B, 3, S, S)."""
        return self.machine(surrogates, replace(batch, draws=batch.draws.at("query", number)), start).canvases


def _moved(weights: Tensor, model: int, change: float) -> Tensor:
    """Weights (models, B), of which those of a model are changed; below 0 they would follow it downhill."""
    moved = weights.clone()
    moved[model] = (moved[model] + change).clamp(min=0)
    return moved / moved.sum(dim=0)


def bases(
    ball: Ball,
    *,
    steps: int = 10,
    alpha: Length | None = None,
    decay: Memory[float] = 0.0,
    objective: ObjectiveName = "margin",
    queries: int = 50,
    learning_rate: float = 0.005,
) -> EnsembleSearch:
    """Weights of an ensemble, searched by what the victim says of what `steps` steps make under each; by default
    alpha = 3 eps / steps."""
    at_least(0, decay=decay)
    length = 3 * ball.eps / max(steps, 1) if alpha is None else alpha
    machine = AttackLoop(ball, steps, length, OBJECTIVES[objective], momentum=momentum(decay))
    return EnsembleSearch(machine=machine, queries=queries, learning_rate=learning_rate)


RECIPES = {
    "bases": Recipe("Cai et al. 2022, arXiv:2208.03610", [bases], models=2, asks=True, fusions=("losses", "logits"))
}

"""Attacks of other libraries and plug-ins, run image by image with keyed random numbers and counted passes.

Libraries draw random numbers for a whole batch, stop when all of it is done, and choose images out of it. But a row may
depend on its image alone, and costs are per image. So each image is attacked as a batch of one, which is slower than a
built-in recipe.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.minimal import SETTLING, Best, settle
from transforms.attacks.objectives import Goal
from transforms.attacks.protocol import BaseAttack, Batch, Found, PoolUse
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.tally import Tally
from transforms.errors import InputError
from transforms.plugins import keyed_randomness, refusing

Find = Callable[[Surrogates, Batch, int], Tensor]
"""(surrogates, batch of one, seed in 0 … 2**31 - 1) -> adversarial canvas, float (1, 3, S, S), not yet bounded."""

_STEPS = ("steps", "num_steps", "n_iter", "max_iterations", "max_iter", "iter", "nb_iter", "num_iter_set", "n_queries")
_REPEATS = ("restarts", "n_restarts", "eot_iter", "repeats")


class NoneFoundError(Exception):
    """The attack gave up on this image."""


class Network(nn.Module):
    """Surrogates as the model of a library: float (N, 3, S, S) in [0, 1] -> fused logits (N, classes)."""

    def __init__(self, surrogates: Surrogates, device: torch.device) -> None:
        super().__init__()
        self._surrogates = surrogates
        # Libraries ask a model's parameters where it is.
        self.place = nn.Parameter(torch.zeros(0, device=device), requires_grad=False)
        self.eval()

    def forward(self, canvases: Tensor) -> Tensor:
        return self._surrogates.differentiable_logits(canvases)


class SoleTally(Tally):
    """The tally of an image that is attacked alone: every member of a batch is a variant of it."""

    def count(self, counted: Tensor, *, forwards: int = 0, backwards: int = 0) -> None:
        super().count(counted.sum().view(1), forwards=forwards, backwards=backwards)

    def check(self, finite: Tensor) -> None:
        super().check(finite.all().view(1))


@dataclass(frozen=True)
class ImageByImage(BaseAttack):
    """An attack of a library or a plug-in, on one image after the other, ending on the 8-bit grid inside the budget.

    Attributes:
        name: as an experiment writes it.
        find: the attack.
        minimal: whether it looks for the smallest perturbation.
        steps: iterations, as far as its parameters say.
        repeats: how often it does them.
        pool: whether it may look at the batch's pool.
    """

    name: str
    ball: Ball
    find: Find
    minimal: bool = False
    steps: int = 1
    repeats: int = 1
    pool: PoolUse = "unused"

    def cost(self, models: int) -> tuple[int, int]:
        """An estimate: one gradient per step. Only the passes that are counted while it runs are true."""
        gradients = models * self.steps * self.repeats
        return gradients + models * (2 + SETTLING if self.minimal else 0), gradients

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        """Attacks the images that are active."""
        images, device = len(batch.canvases), batch.canvases.device
        canvases, norms = batch.canvases.clone(), torch.full((images,), torch.inf, device=device)
        tallies: list[Tally] = [SoleTally() for _ in range(images)]
        active = range(images) if surrogates.active is None else surrogates.active.nonzero().flatten().tolist()
        repeated = _repeats(batch)
        for image in active:
            if repeated[image] and image - 1 in active:
                canvases[image], norms[image] = canvases[image - 1], norms[image - 1]
                tallies[image] = tallies[image - 1]
                continue
            found = self._attack(surrogates.tallied(tallies[image]), _alone(batch, image))
            canvases[image] = found.canvases[0]
            if found.norms is not None:
                norms[image] = found.norms[0]
        surrogates.tally.add(tallies, device)
        return Found(canvases, norms if self.minimal else None)

    def _attack(self, surrogates: Surrogates, one: Batch) -> Found:
        if self.minimal and bool(one.goal.reached(surrogates.logits(one.clean))):
            return Found(one.canvases, torch.zeros(1))  # the smallest there is
        adversarial = self._found(surrogates, one)
        surrogates.tally.check(adversarial.isfinite().all().view(1))
        # What is not finite could not be rounded; the image becomes a row of `failures`.
        adversarial = torch.where(adversarial.isfinite(), adversarial, one.clean).clamp(0, 1)
        if not self.minimal:
            return Found(self.ball.to_grid(one.canvases, adversarial))
        best = Best.none(one.clean)
        perturbation = adversarial - one.clean
        reached = one.goal.reached(surrogates.logits(adversarial))
        best.offer(perturbation, self.ball.length(perturbation), reached)
        return settle(surrogates, one, self.ball, best, one.goal.reached)

    def _found(self, surrogates: Surrogates, one: Batch) -> Tensor:
        seed = int(_seeds(one))
        try:
            with refusing(f"attack {self.name}", NoneFoundError), keyed_randomness(seed, one.canvases.device):
                adversarial = self.find(surrogates, one, seed)
        except NoneFoundError:
            return one.clean
        if not isinstance(adversarial, Tensor) or adversarial.shape != one.canvases.shape:
            got = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else type(adversarial).__name__
            raise InputError(f"attack {self.name}: returned {got}, not canvases {tuple(one.canvases.shape)}")
        if not adversarial.is_floating_point():
            raise InputError(f"attack {self.name}: returned {adversarial.dtype}, not floats in [0, 1]")
        return adversarial.detach().to(one.canvases.device, torch.float32)


def iterations(parameters: Mapping[str, Any]) -> tuple[int, int]:
    """Steps and repeats, as far as parameters say by their names."""
    steps = [parameters[name] for name in _STEPS if name in parameters]
    repeats = math.prod(parameters[name] for name in _REPEATS if name in parameters)
    if "initial_const" in parameters:  # a search for the constant, as by Carlini & Wagner; elsewhere a line search
        repeats *= parameters.get("binary_search_steps", 1)
    return int(steps[0]) if steps else 1, int(repeats)


def _seeds(batch: Batch) -> Tensor:
    """For the generators that belong to the process: int64 (B, 1)."""
    return batch.draws.integers(2**31, (1,), "global generators")


def _repeats(batch: Batch) -> list[bool]:
    """Whether an image is the one before it once more: short batches are filled up with such."""
    seeds = _seeds(batch).flatten()
    same = (seeds[1:] == seeds[:-1]).tolist()
    pairs = zip(batch.canvases[1:], batch.canvases[:-1], strict=True)
    return [False, *(keyed and torch.equal(*pair) for keyed, pair in zip(same, pairs, strict=True))]


def _alone(batch: Batch, image: int) -> Batch:
    def of(values: Tensor) -> Tensor:
        return values[image : image + 1]

    targets = None if batch.goal.targets is None else of(batch.goal.targets)
    goal = Goal(of(batch.goal.labels), targets)
    return Batch(of(batch.canvases), goal, batch.draws.of(image), batch.pool, batch.pool_labels)

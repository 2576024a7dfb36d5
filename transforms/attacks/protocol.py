"""What every attack is: a function from a batch of canvases to adversarial ones, with a stated cost."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from transforms.attacks.bands import Band
from transforms.attacks.objectives import Goal
from transforms.attacks.surrogates import Surrogates
from transforms.levels import WHITE
from transforms.randomness import Draws


@dataclass(frozen=True)
class Batch:
    """Images to attack at once; all tensors on the surrogates' device.

    Attributes:
        canvases: uint8 (B, 3, S, S).
        goal: what they should be taken for.
        draws: random numbers, keyed by these images.
        pool: uint8 (P, 3, S, S), P >= 1, canvases that an attack may mix in: the same ones whatever the batch.
        pool_labels: int64 (P,), their true classes.
    """

    canvases: Tensor
    goal: Goal
    draws: Draws
    pool: Tensor
    pool_labels: Tensor

    @property
    def clean(self) -> Tensor:
        """The canvases as float (B, 3, S, S) in [0, 1]."""
        return self.canvases.float() / WHITE


class Found(NamedTuple):
    """What an attack made of a batch.

    Attributes:
        canvases: uint8 (B, 3, S, S), inside the budget. What is stored, shown to models, and judged.
        norms: float (B,), of a minimal-norm attack: the norm of the smallest adversarial perturbation that it found,
            before rounding to 8 bits and regardless of the budget, in the unit of [0, 1] pixels; infinite where it
            found none. None from an attack that uses a fixed budget.
    """

    canvases: Tensor
    norms: Tensor | None = None


class Attack(Protocol):
    """Attacks a batch inside a budget that it was made for.

    Attributes:
        steps: iterations, of one restart.

    Two things it may have besides (see `stages_of`, `band_of`): `stages`, the attacks of a cascade, of which each gets
    the images that withstood those before it; and `band`, which its perturbations should stay in.
    """

    @property
    def steps(self) -> int: ...

    def cost(self, models: int) -> tuple[int, int]:
        """Forward and backward passes of one network over one window, at most, per image and for so many surrogates."""

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found: ...


def stages_of(attack: Attack) -> tuple[Attack, ...]:
    """The attacks of a cascade, or the attack itself."""
    stages: tuple[Attack, ...] = getattr(attack, "stages", (attack,))
    return stages


def band_of(attack: Attack) -> Band | None:
    """The band of a band-limited attack."""
    band: Band | None = getattr(attack, "band", None)
    return band


def one_by_one(flags: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1), to go with canvases."""
    return flags.view(-1, 1, 1, 1)


def where(flags: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    """Chooses whole canvases, (B, 3, S, S), by flags, bool (B,)."""
    return torch.where(one_by_one(flags), then, otherwise)

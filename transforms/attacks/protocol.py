"""What every attack is: a function from a batch of canvases to adversarial ones, with a stated cost."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from transforms.attacks.objectives import Goal
from transforms.attacks.parts.bands import Band
from transforms.attacks.surrogates import Surrogates
from transforms.data.pixels import WHITE
from transforms.randomness import Draws


@dataclass(frozen=True)
class Batch:
    """Images to attack at once; all tensors on the surrogates' device.

    Attributes:
        canvases: uint8 (B, 3, S, S).
        goal: what they should be taken for.
        draws: random numbers, keyed by these images.
        pool: uint8 (P, 3, S, S), canvases that an attack may mix in: the same ones whatever the batch. None of them
            for an attack that is not `pooled`, nor where none could be read.
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


class Transformation(Protocol):
    """Makes copies of canvases.

    Attributes:
        copies: how many.
        random: whether anything is drawn.
        fused: whether the logits of the copies are averaged, instead of their gradients.
    """

    random: ClassVar[bool]
    fused: ClassVar[bool]

    @property
    def copies(self) -> int: ...

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        """One of the copies, from 0, of float points (B, 3, S, S): the same shape, differentiable."""


@runtime_checkable
class Attack(Protocol):
    """Attacks a batch inside a budget that it was made for. What most attacks have not, `BaseAttack` says of them.

    Attributes:
        steps: iterations, of one restart; None of a cascade, whose stages count different things.
        stages: the attacks of a cascade, of which each gets the images that withstood those before it; of any other
            attack, itself.
        band: what its perturbations should stay in.
        transformations: what models are shown in place of the canvas.
        redraws: whether the gradient at a point is another one each time, so that it makes sense to average several.
        pooled: whether it may look at the batch's pool.
    """

    @property
    def steps(self) -> int | None: ...

    @property
    def stages(self) -> "tuple[Attack, ...]": ...

    @property
    def band(self) -> Band | None: ...

    @property
    def transformations(self) -> tuple[Transformation, ...]: ...

    @property
    def redraws(self) -> bool: ...

    @property
    def pooled(self) -> bool: ...

    def cost(self, models: int) -> tuple[int, int]:
        """Forward and backward passes of one network over one window, at most, per image and for so many surrogates."""

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found: ...


class BaseAttack:
    """What an attack is that does not say otherwise: of one stage, not limited to a band, and nothing is shown, drawn
    or mixed in."""

    @property
    def stages(self: Attack) -> tuple[Attack, ...]:
        return (self,)

    @property
    def band(self) -> Band | None:
        return None

    @property
    def transformations(self) -> tuple[Transformation, ...]:
        return ()

    @property
    def redraws(self) -> bool:
        return False

    @property
    def pooled(self) -> bool:
        return False

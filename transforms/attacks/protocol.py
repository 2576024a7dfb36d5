"""The contract of attacks: a function from a batch of canvases to adversarial canvases, with a stated cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from transforms.attacks.objectives import Goal
from transforms.attacks.surrogates import Surrogates
from transforms.data.pixels import WHITE, Pixels
from transforms.models.classifier import Classifier
from transforms.randomness import Draws


@dataclass(frozen=True)
class Batch:
    """Images to attack at once; all tensors on the surrogates' device.

    Attributes:
        canvases: uint8 (B, 3, S, S).
        goal: the classes that count as success.
        draws: random numbers, keyed by these images.
        pool: uint8 (P, 3, S, S), canvases that an attack may mix in, the same for every batch of an experiment. Empty
            for an attack that does not use it, and where none could be read.
        pool_labels: int64 (P,), their true classes.
        pictures: uint8 (B, 3, S, S), what another tool has made of these images; None for an attack that makes them.
        victim: a model that the attack may ask about canvases, counted apart; None for an attack that asks none.
    """

    canvases: Tensor
    goal: Goal
    draws: Draws
    pool: Tensor
    pool_labels: Tensor
    pictures: Tensor | None = None
    victim: Surrogates | None = None

    @property
    def clean(self) -> Tensor:
        """The canvases as float (B, 3, S, S) in [0, 1]."""
        return self.canvases.float() / WHITE


class Found(NamedTuple):
    """The outcome of an attack on a batch.

    Attributes:
        canvases: uint8 (B, 3, S, S), inside the budget: stored, shown to models, and judged.
        norms: float (B,), of a minimal-norm attack: the norm of the smallest adversarial perturbation that it found,
            before rounding to 8 bits and regardless of the budget, in the unit of [0, 1] pixels; infinite where it
            found none. None from an attack that uses a fixed budget.
        measured: columns of the images' rows in `attacks` that do not follow from the canvases, float (B,) each: those
            of the attack's `measures`. None where there are none.
    """

    canvases: Tensor
    norms: Tensor | None = None
    measured: Mapping[str, Tensor] | None = None


class Transformation(Protocol):
    """Makes copies of canvases, which the models are shown instead.

    Attributes:
        copies: how many.
        random: whether anything is drawn.
        fused: whether the logits of the copies are averaged, instead of their gradients.
        mixes: whether the batch's pool is mixed in.
        aligned: whether the transformations that follow change all its copies alike.
    """

    random: ClassVar[bool]
    fused: ClassVar[bool]
    mixes: ClassVar[bool]
    aligned: ClassVar[bool]

    @property
    def copies(self) -> int: ...

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        """One of the copies, from 0, of float points (B, 3, S, S): the same shape, differentiable.

        Raises:
            InputError: canvases of this side are too small for it, or it would have no effect on them.
        """


class BaseTransformation:
    """Defaults for transformations: random, with a gradient for each copy, without other pictures, and with copies that
    are changed further each by itself."""

    random: ClassVar[bool] = True
    fused: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    aligned: ClassVar[bool] = False


PoolUse = Literal["unused", "offered", "needed"]


@runtime_checkable
class Attack(Protocol):
    """Attacks a batch inside a budget that it was made for. Most of it has defaults in `BaseAttack`.

    Attributes:
        steps: iterations, of one restart; None of a cascade, whose stages count different things, and of what has none.
        stages: the attacks of a cascade, of which each gets the images that withstood those before it; of any other
            attack, itself.
        redraws: whether the gradient at a point changes from one time to the next, so that averaging makes sense.
        pool: what it does with the batch's pool; where it needs one, an experiment must have two classes.
        looks_inside: whether it reads or changes what layers of the surrogates answer, which plain torch alone lets it.
        measures: the columns of `attacks` that it finds a value for, and other attacks leave empty.
    """

    @property
    def steps(self) -> int | None: ...

    @property
    def stages(self) -> "tuple[Attack, ...]": ...

    @property
    def redraws(self) -> bool: ...

    @property
    def pool(self) -> PoolUse: ...

    @property
    def looks_inside(self) -> bool: ...

    @property
    def measures(self) -> tuple[str, ...]: ...

    def cost(self, models: int) -> tuple[int, int]:
        """Forward and backward passes of one network over one window, at most, per image and for so many surrogates."""

    def check(self, side: int) -> None:
        """Raises InputError for a parameter that is out of range, or without effect, on canvases of so many pixels."""

    def check_models(self, classifiers: Sequence[Classifier]) -> None:
        """Raises InputError for surrogates that it cannot follow, say because they have no such layer."""

    def columns(self, clean: Pixels, adversarial: Pixels) -> dict[str, float]:
        """Columns of an image's row in `attacks` that follow from the canvases, and other attacks leave empty.

        Args:
            clean, adversarial: uint8 (3, S, S).
        """

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found: ...


class BaseAttack:
    """Defaults for attacks: one stage, deterministic gradients, no use of the pool, no look inside, any canvas and any
    surrogates, no further columns."""

    @property
    def stages(self: Attack) -> tuple[Attack, ...]:
        return (self,)

    @property
    def redraws(self) -> bool:
        return False

    @property
    def pool(self) -> PoolUse:
        return "unused"

    @property
    def looks_inside(self) -> bool:
        return False

    @property
    def measures(self) -> tuple[str, ...]:
        return ()

    def check(self, side: int) -> None:
        pass

    def check_models(self, classifiers: Sequence[Classifier]) -> None:
        pass

    def columns(self, clean: Pixels, adversarial: Pixels) -> dict[str, float]:
        return {}

"""Types of parameters that say what a value is: `alpha: Length = 1 / 255`. Experiments are checked by them.

A recipe's function, or a driver's dataclass, writes them beside the defaults; nothing else has to know the names.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, TypeVar, get_args, get_origin

T = TypeVar("T")


class Unit(Enum):
    """What a number is measured in, in words."""

    LENGTH = "length in the attack's norm"
    L2_LENGTH = "length in L2"
    PIXELS = "[0, 1] pixels"
    SHIFT = "pixels across the canvas"
    DEGREES = "degrees"

    def exceeded(self, value: float, norm: str | None) -> bool:
        """Whether a value is the whole range of a pixel or more, as when grey levels of 255 were meant."""
        return value >= 1 and (self is Unit.PIXELS or (self is Unit.LENGTH and norm == "linf"))


@dataclass(frozen=True)
class Carried:
    """Weighs what a step carries on to the next, so it has no effect on a single step.

    Attributes:
        by: another parameter, at 0 of which nothing is carried on.
    """

    by: str | None = None


@dataclass(frozen=True)
class Drawn:
    """Counts draws of what is random, so it must be 1 where nothing is."""


@dataclass(frozen=True)
class Bound:
    """Is the budget of an attack that bounds no norm, or a part of it."""


Length = Annotated[float, Unit.LENGTH]
"""A length in the attack's norm, of [0, 1] pixels: at least 1 would be the whole range of a pixel in L∞."""
L2Length = Annotated[float, Unit.L2_LENGTH]
"""A length in L2, of [0, 1] pixels, whatever the attack's norm."""
Pixels = Annotated[float, Unit.PIXELS]
"""A change of single values, of [0, 1] pixels, whatever the attack's norm."""
Shift = Annotated[float, Unit.SHIFT]
"""How far something moves over a canvas, in its pixels."""
Degrees = Annotated[float, Unit.DEGREES]
"""An angle."""
Budget = Annotated[T, Bound()]
"""What is not exceeded, where no norm is bounded: `max_flow: Budget[Shift] = 2.0`."""
Memory = Annotated[T, Carried()]
"""A decay, say: `decay: Memory[float] = 1.0`."""
LayerNames = str | tuple[str, ...] | None
"""A layer of each surrogate by the network's own name: one for all, one for each, or the usual ones."""
Redraws = Annotated[int, Drawn()]
"""How often what is random is drawn."""


def marks(kind: Any) -> tuple[Any, ...]:
    """What an annotated type says besides its type: of `Length | None`, `(Unit.LENGTH,)`."""
    if get_origin(kind) is Annotated:
        return tuple(kind.__metadata__)
    return tuple(mark for each in get_args(kind) for mark in marks(each))

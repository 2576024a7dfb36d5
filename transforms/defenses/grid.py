"""Defences by name: `lowpass:cutoff=0.7` is a defence, `lowpass` with lists of parameters a grid of them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature

from torch import Tensor

from transforms.defenses.canvas import blur, jpeg, lowpass
from transforms.errors import InputError, unknown

DEFENSES: dict[str, Callable[..., Tensor]] = {"lowpass": lowpass, "blur": blur, "jpeg": jpeg}

Value = int | float


@dataclass(frozen=True)
class Defense:
    """A defence with its parameters; called with canvases, uint8 (B, 3, S, S), it returns the same shape."""

    function: str
    parameters: tuple[tuple[str, Value], ...] = ()

    @property
    def name(self) -> str:
        """As it stands in tables: `jpeg:quality=75`."""
        written = ",".join(f"{key}={value!r}" for key, value in self.parameters)
        return f"{self.function}:{written}" if written else self.function

    def __call__(self, canvases: Tensor) -> Tensor:
        """Applies the defence; raises InputError for a parameter out of its range."""
        if self == NO_DEFENSE:
            return canvases
        return DEFENSES[self.function](canvases, **dict(self.parameters))


NO_DEFENSE = Defense("none")


def parameter_types(function: str) -> dict[str, type]:
    """The keyword parameters of a defence and their types; raises InputError for an unknown defence."""
    if function not in DEFENSES:
        raise unknown("defense", function, DEFENSES)
    parameters = signature(DEFENSES[function]).parameters.values()
    return {each.name: each.annotation for each in parameters if each.kind is each.KEYWORD_ONLY}


def grid(function: str, parameters: Mapping[str, Sequence[Value]]) -> tuple[Defense, ...]:
    """Every combination of a defence's parameter values, in the order given.

    Raises:
        InputError: unknown defence or parameter, a missing or repeated value.
    """
    known = parameter_types(function)
    for key, values in parameters.items():
        if key not in known:
            raise unknown(f"parameter of {function}", key, known)
        if not values or len(set(values)) < len(values):
            raise InputError(f"{function}: {key} must list different values, not {list(values)}")
    for key in known:
        if key not in parameters:
            raise InputError(f"{function}: needs a list of values for {key!r}")
    combinations = itertools.product(*(parameters[key] for key in known))
    return tuple(Defense(function, tuple(zip(known, values, strict=True))) for values in combinations)

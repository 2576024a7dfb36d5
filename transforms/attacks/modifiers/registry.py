"""Modifiers by name, with the parameters that an experiment may set."""

from dataclasses import dataclass
from inspect import signature
from typing import Any, get_type_hints

from transforms.attacks.modifiers import activations, residual, transformers
from transforms.attacks.modifiers.modifier import Modifier

MODIFIERS = {**residual.MODIFIERS, **activations.MODIFIERS, **transformers.MODIFIERS}
"""Functions that make them, whose keyword parameters an experiment may set."""


def parameters(name: str) -> dict[str, tuple[Any, Any]]:
    """Type and default of each parameter, by name."""
    function = MODIFIERS[name]
    kinds = get_type_hints(function)
    return {key: (kinds[key], each.default) for key, each in signature(function).parameters.items()}


@dataclass(frozen=True)
class ModifierSpec:
    """A modifier, fully named: small and picklable.

    Attributes:
        name: one of `MODIFIERS`.
        parameters: its own, by name.
    """

    name: str
    parameters: tuple[tuple[str, Any], ...]

    def make(self) -> Modifier:
        """Makes it; raises InputError for a parameter that is out of its range."""
        return MODIFIERS[self.name](**dict(self.parameters))

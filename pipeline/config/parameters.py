"""Keys that follow from the signature of a function: an attack's recipe, a surrogate's modifiers."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, create_model

from pipeline.config.base import Ratio, Strict, one_of
from transforms.attacks.units import LayerNames


def parameter_model(name: str, parameters: Mapping[str, tuple[Any, Any]]) -> type[Strict]:
    """A section with these keys.

    Args:
        parameters: type and default of each, by its name.
    """
    fields: dict[str, Any] = {key: (_written(key, hint), default) for key, (hint, default) in parameters.items()}
    return create_model(name, __base__=Strict, **fields)


def plain_parameters(section: Strict) -> tuple[tuple[str, Any], ...]:
    """What a section says, hashable and in plain numbers, as specifications take it."""
    return tuple((key, _plain(value)) for key, value in section)


def _written(key: str, hint: Any) -> Any:
    """The type of a parameter as a user writes it: floats may be fractions."""
    if hint is float:
        return Ratio
    if hint == float | None:
        return Ratio | None
    if hint == tuple[float, ...]:
        return tuple[Ratio, ...]
    if hint == LayerNames:
        return hint
    if get_origin(hint) is Literal:
        return Annotated[hint, one_of(key, get_args(hint))]
    return Annotated[hint, Field(strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):  # a specification is hashable
        return tuple(_plain(each) for each in value)
    return float(value) if isinstance(value, Fraction) else value

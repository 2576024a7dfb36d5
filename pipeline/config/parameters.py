"""Keys that follow from the signature of a function: an attack's recipe, a surrogate's modifiers."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, Field, create_model

from pipeline.config.base import Ratio, Strict, different, one_of
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


_WRITTEN: dict[Any, Any] = {
    float: Ratio,
    float | None: Ratio | None,
    tuple[float, ...]: tuple[Ratio, ...],
    tuple[int, ...]: tuple[Annotated[int, Field(strict=True)], ...],
    tuple[str, ...]: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(different)],
    LayerNames: LayerNames,
}
"""What a user writes for a type: floats may be fractions."""


def _written(key: str, hint: Any) -> Any:
    """The type of a parameter as a user writes it."""
    if hint in _WRITTEN:
        return _WRITTEN[hint]
    if get_origin(hint) is Literal:
        return Annotated[hint, one_of(key, get_args(hint))]
    return Annotated[hint, Field(strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):  # a specification is hashable
        return tuple(_plain(each) for each in value)
    return float(value) if isinstance(value, Fraction) else value

"""Validated configuration: frozen, without unknown keys, and with errors that fit on one line."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError, model_validator

from transforms.errors import InputError, unknown

# Bounded, because Fraction("1e999999999") is exact, and fills the memory.
_DECIMAL = r"\d{0,20}\.?\d{1,20}"
_NUMBER = re.compile(rf"([-+]?{_DECIMAL})/(\d{{1,20}})|[-+]?{_DECIMAL}([eE][-+]?\d{{1,3}})?")


class Strict(BaseModel):
    """A frozen section of an experiment; an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, section: Any) -> Any:
        if isinstance(section, Mapping):
            for key in section:
                if key not in cls.model_fields:
                    raise unknown("key", key, cls.model_fields)
        return section


def parse_ratio(value: object) -> Fraction:
    """A number as a user writes it: `0.03`, `2`, or a fraction such as `8/255`; raises InputError for anything else."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
            raise ValueError
        # The decimal that was written, not its binary neighbour.
        number = _fraction(repr(value) if isinstance(value, float) else value)
        float(number)
        return number
    except (ValueError, ArithmeticError):
        raise InputError(f"{value!r} is not a number such as 0.03 or 8/255") from None


def _fraction(value: int | str | Fraction) -> Fraction:
    if not isinstance(value, str):
        return Fraction(value)
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise ValueError
    numerator, denominator = match[1], match[2]
    return Fraction(numerator) / int(denominator) if denominator else Fraction(value)


Ratio = Annotated[Fraction, BeforeValidator(parse_ratio), PlainSerializer(str)]


_WANTED = {"tuple_type": "a list", "dict_type": "a section of keys and values", "model_type": "a section of keys"}


def first_problem(error: ValidationError) -> str:
    """The first problem of a configuration, as `key.key: what is wrong`."""
    first = error.errors(include_url=False)[0]
    # `parameters` is where we keep a recipe's own keys; the user wrote them beside the others.
    where = ".".join(str(step) for step in first["loc"] if step != "parameters")
    kind, message, given = first["type"], first["msg"], repr(first["input"])[:100]
    if kind in _WANTED:
        example = f", as in [{first['input']}]" if kind == "tuple_type" and isinstance(first["input"], str) else ""
        message = f"should be {_WANTED[kind]}{example}, not {given}"
    elif kind == "missing":
        message = "is missing"
    elif kind == "value_error":
        message = message.removeprefix("Value error, ")
    else:
        message = f"{message[:1].lower()}{message[1:]}, not {given}"
    return f"{where}: {message}" if where else message

"""Validated configuration: frozen, without unknown keys, and with errors that fit on one line."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from transforms.errors import InputError, printable, unknown
from transforms.numbers import parse_ratio


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


def one_of(kind: str, choices: Collection[str]) -> BeforeValidator:
    """Refuses a name that is not among the choices, and suggests the nearest."""

    def check(name: Any) -> Any:
        if not isinstance(name, str) or name not in choices:
            raise unknown(kind, name, choices)
        return name

    return BeforeValidator(check)


def different(names: Sequence[str]) -> Sequence[str]:
    """Refuses a list that has a name twice."""
    for name, times in Counter(names).items():
        if times > 1:
            raise InputError(f"{name!r} is listed twice")
    return names


# Names stand in paths and in --set's dotted keys.
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(different)]
Ratio = Annotated[Fraction, BeforeValidator(parse_ratio), PlainSerializer(str)]


_WANTED = {"tuple_type": "a list", "dict_type": "a section of keys and values", "model_type": "a section of keys"}


def one_case(where: str, names: Iterable[str]) -> None:
    """Raises InputError for two names that differ in upper and lower case alone."""
    spelled: dict[str, str] = {}
    for name in names:
        other = spelled.setdefault(name.lower(), name)
        if other != name:
            raise InputError(f"{where}: {other!r} and {name!r} differ in upper and lower case alone; rename one")


def first_problem(error: ValidationError) -> str:
    """The first problem of a configuration, as `key.key: what is wrong`, on one line."""
    first = error.errors(include_url=False)[0]
    kind, message, given = first["type"], first["msg"], repr(first["input"])[:100]
    # The last one may be which of two types was tried.
    steps = first["loc"][:-1] if kind == "string_type" and first["loc"][-1] == "str" else first["loc"]
    # `parameters` is where we keep a recipe's own keys; the user wrote them beside the others.
    where = ".".join(str(step) for step in steps if step not in ("parameters", "[key]"))
    if kind in _WANTED:
        example = f", as in [{first['input']}]" if kind == "tuple_type" and isinstance(first["input"], str) else ""
        message = f"should be {_WANTED[kind]}{example}, not {given}"
    elif kind == "too_short":
        message = "is empty; name at least one"
    elif kind == "string_pattern_mismatch":
        message = f"{given} is no name: a letter, then up to 63 letters, digits, - and _"
    elif kind == "missing":
        message = "is missing"
    elif kind == "value_error":
        message = message.removeprefix("Value error, ")
    else:
        message = f"{message[:1].lower()}{message[1:]}, not {given}"
    return printable(f"{where}: {message}" if where else message)

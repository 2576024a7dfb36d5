"""Defences by name: `lowpass:cutoff=0.7` is one, `jpeg:quality=75+blur:sigma=1.0` a composition of two, and `lowpass`
with lists of parameters a grid of them."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from transforms.defenses.defense import NO_DEFENSE, Defense, Filter, Value
from transforms.defenses.registry import parameter_types
from transforms.errors import InputError, unknown
from transforms.numbers import parse_ratio

# A sign inside a number, as in 1e+16, joins nothing.
_JOINT = re.compile(r"\+(?![\d.])")


def parse(written: str) -> Defense:
    """A defence as tables write it: `jpeg:quality=75`, `jpeg:quality=75+blur:sigma=1`, `none`.

    Raises:
        InputError: unknown defence or parameter, a missing or repeated one, or not a number.
    """
    if written == NO_DEFENSE.name:
        return NO_DEFENSE
    return Defense(tuple(_parse_filter(each) for each in _JOINT.split(written)))


def defenses(section: Any) -> tuple[Defense, ...]:
    """What an experiment's `defenses:` stands for: one entry, as `grid` takes it, that is a mapping, or a list of any.

    Raises:
        InputError: as `grid` does, naming the key; a defence is there twice.
    """
    if isinstance(section, Mapping):
        made = grid(section, "defenses") if section else ()
    elif isinstance(section, Sequence) and not isinstance(section, str):
        made = tuple(each for number, entry in enumerate(section) for each in grid(entry, f"defenses.{number}"))
    else:
        raise InputError("defenses: should be a section such as {lowpass: {cutoff: [0.7]}}, or a list of such")
    counted = Counter(made)
    if NO_DEFENSE in counted:
        raise InputError("defenses: every experiment looks at undefended canvases anyway; leave 'none' out")
    for each, times in counted.items():
        if times > 1:
            raise InputError(f"defenses: {each.name} is listed twice")
    return made


def grid(entry: Any, where: str) -> tuple[Defense, ...]:
    """The defences that one entry stands for, in the order given.

    Args:
        entry: from YAML. A string is one defence. A mapping {name: {parameter: value or list of values}} is every
            combination of values. A list is a composition, whose items are strings or mappings: every combination of
            what its items stand for.
        where: the entry's key, for errors.

    Raises:
        InputError: unknown defence or parameter, a missing or repeated value, or not a number.
    """
    if isinstance(entry, str):
        with _at(where):
            return (parse(entry),)
    if isinstance(entry, Mapping) and entry:
        made = [each for name, values in entry.items() for each in _filters(str(name), values, f"{where}.{name}")]
        with _at(where):
            return tuple(Defense((each,)) for each in made)
    if isinstance(entry, Sequence):
        parts = [grid(item, f"{where}.{number}") for number, item in enumerate(entry)]
        with _at(where):
            return tuple(
                Defense(tuple(each for part in chosen for each in part.filters)) for chosen in itertools.product(*parts)
            )
    raise InputError(f"{where}: {entry!r} is not a defence such as lowpass:cutoff=0.5")


def _parse_filter(written: str) -> Filter:
    function, _, rest = written.partition(":")
    pairs = [each.partition("=") for each in rest.split(",") if each]
    given = {key: value for key, _, value in pairs}
    if len(given) < len(pairs):
        raise InputError(f"{written!r} gives a parameter twice")
    types = parameter_types(function)
    with _at(function):
        _no_unknown(given, types)
    missing = [key for key in types if key not in given]
    if missing:
        form = f"{function}:{','.join(f'{key}=...' for key in types)}"
        form = f'"{form}", in quotes where it stands in a list' if "," in form else form
        raise InputError(f"{written!r} needs {' and '.join(missing)}, as in {form}")
    return _filters(function, given, function)[0]


def _filters(function: str, section: Any, where: str) -> list[Filter]:
    """Every combination of a function's values."""
    with _at(where):
        types = parameter_types(function)
        section = _checked({} if section is None else section, types)
    lists = [_values(section[key], kind, f"{where}.{key}") for key, kind in types.items()]
    return [Filter(function, tuple(zip(types, values, strict=True))) for values in itertools.product(*lists)]


def _checked(section: Any, types: Mapping[str, type[Value]]) -> Mapping[str, Any]:
    if not isinstance(section, Mapping):
        form = ", ".join(f"{key}: [...]" for key in types)
        raise InputError(f"list the values of each parameter, as in {{{form}}}")
    _no_unknown(section, types)
    for key in types:
        if key not in section:
            raise InputError(f"needs {key!r}, a value or a list of values")
    return section


def _no_unknown(keys: Iterable[str], types: Mapping[str, type[Value]]) -> None:
    for key in keys:
        if key not in types:
            raise unknown("parameter", key, types)


def _values(written: Any, kind: type[Value], where: str) -> list[Value]:
    with _at(where):
        values = [_number(each, kind) for each in (written if isinstance(written, list) else [written])]
        if not values or len(set(values)) < len(values):
            raise InputError(f"must list different values, not {written}")
    return values


def _number(written: Any, kind: type[Value]) -> Value:
    ratio = parse_ratio(written)
    if kind is int and ratio.denominator != 1:
        raise InputError(f"{written!r} is not a whole number")
    return kind(ratio)


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Adds the key to an error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None

"""YAML as experiments use it: texts, numbers, lists and sections, of bounded size, whatever stands in the file."""

from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from transforms.errors import InputError, printable

MAX_BYTES = 2**17
"""Maximum size of an experiment's file; ruamel takes some seconds for the worst of this size."""

_MOST_VALUES = 2**16
_DEEPEST = 32
_LONGEST_NUMBER = 64

_NUMBERS = {"int", "float"}
_UNUSED = {"timestamp", "binary", "set", "omap", "pairs"}
"""Kinds of value that ruamel's safe constructor makes and no key of an experiment takes."""


def read_yaml(text: str, where: str) -> Any:
    """Reads one document of YAML 1.2, which may use anchors, aliases and merge keys.

    Args:
        text: at most `MAX_BYTES`, or the time it takes has no bound.
        where: it is from, for errors.

    Returns:
        dict, list, str, int, float, bool or None. No dict or list is part of two others, whatever the aliases.

    Raises:
        InputError: it is not YAML; it holds dates, sets or any other kind of value, or a number of more than 64 signs;
            with its aliases written out it has more than 65,536 values, or is nested more than 32 deep.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Bounded
    try:
        return _unshared(yaml.load(text))
    except YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {printable(error)}") from None
    except RecursionError:  # while it is read, before there is anything to measure
        raise InputError(f"{where}: is nested too deeply; at most {_DEEPEST} levels") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except MemoryError:  # the machine's memory is no property of the file
        raise
    except Exception as error:  # of a wrong number ruamel raises anything from ValueError to IndexError
        raise InputError(f"{where}: not valid YAML: {printable(error)}") from None


class _Bounded(SafeConstructor):
    """Makes values of a document's nodes once these are found to be plain and few."""

    def construct_document(self, node: Node) -> Any:
        for count, each in enumerate(_written_out(node, 0)):
            if count == _MOST_VALUES:
                raise InputError(f"has more than {_MOST_VALUES:,} values, its aliases written out")
            _check_kind(each)
            _check_keys(each)
        return super().construct_document(node)


def _written_out(node: Node, depth: int) -> Iterator[Node]:
    """A node and all that is in it, aliases and merge keys as often as they are used: without end, where one is in
    itself, but for the bound on the depth."""
    if depth > _DEEPEST:
        raise InputError(f"{_line(node)} is nested too deeply; at most {_DEEPEST} levels")
    yield node
    inner = [] if isinstance(node, ScalarNode) else node.value
    for item in inner:
        for each in item if isinstance(item, tuple) else (item,):
            yield from _written_out(each, depth + 1)


def _check_kind(node: Node) -> None:
    kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
    if kind in _UNUSED:
        raise InputError(f"{_line(node)} holds a {kind}, which no key takes; a text that looks like one goes in quotes")
    if kind in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
        raise InputError(f"{_line(node)} has a number of more than {_LONGEST_NUMBER} signs")


def _check_keys(node: Node) -> None:
    seen = set[tuple[str, str]]()
    for key, _ in node.value if isinstance(node, MappingNode) else ():
        if isinstance(key, ScalarNode):
            written = str(key.tag), key.value
            if written in seen:
                raise InputError(f"{_line(key)} has the key {key.value!r} for the second time")
            seen.add(written)


def _line(node: Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _unshared(value: Any) -> Any:
    """A copy in which what was an alias is a value of its own: to change one must not change the other."""
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value

"""The 1,000 ImageNet classes: index, WordNet id (wnid) and names, resolved both ways.

Indices are 0–999 in the order of sorted wnids, the order in which torchvision, timm and Keras models answer.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import NamedTuple

from transforms.errors import InputError


class _Class(NamedTuple):
    wnid: str
    name: str
    synonyms: tuple[str, ...]


@cache
def _classes() -> tuple[_Class, ...]:
    text = (resources.files("transforms.data") / "imagenet_classes.csv").read_text(encoding="utf-8")
    return tuple(
        _Class(row["wnid"], row["name"], tuple(row["synonyms"].split("|"))) for row in csv.DictReader(text.splitlines())
    )


@cache
def _indices_by_key() -> dict[str, tuple[int, ...]]:
    """Everything a class may be called, as a key, and the classes that are called so: several for "crane"."""
    indices = defaultdict(set)
    for index, entry in enumerate(_classes()):
        for text in (entry.wnid, entry.name, *entry.synonyms):
            indices[_key(text)].add(index)
    return {key: tuple(sorted(found)) for key, found in indices.items()}


def _key(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text).casefold()


def _entry(index: int) -> _Class:
    # A plain lookup would answer -1, the label of an unlabeled image, with the last class.
    if not 0 <= index < len(_classes()):
        raise IndexError(f"class index {index} is not in 0–999")
    return _classes()[index]


def class_name(index: int) -> str:
    """The display name of a class, unique among the 1,000: 145 → "king penguin".

    Raises:
        IndexError: `index` is not in 0–999.
    """
    return _entry(index).name


def class_wnid(index: int) -> str:
    """The WordNet id of a class: 145 → "n02056570".

    Raises:
        IndexError: `index` is not in 0–999.
    """
    return _entry(index).wnid


def classes_called(text: str | int) -> tuple[int, ...]:
    """The indices of all classes that may be called so: none, or one, or several for "crane"."""
    written = str(text).strip()
    if index := re.fullmatch(r"([0-9]{1,3})(\.0)?", written):  # pandas writes whole numbers as 7.0
        return (int(index[1]),)
    return _indices_by_key().get(_key(written), ())


def resolve_class(text: str | int) -> int:
    """The index, 0–999, of the class that a user named.

    Args:
        text: an index (as a number or in digits), a wnid, a display name, or a WordNet synonym. Case, spaces,
            underscores and hyphens do not matter.

    Raises:
        InputError: no class is called so (the nearest ones are named), or several are. A display name that is
            also a synonym of another class ("crane", "missile", "panda") is refused as well: models, data sets
            and people do not agree on which of the two it means, and a wrong label is worse than a question.
    """
    written, indices = str(text).strip(), classes_called(text)
    if not indices and re.fullmatch(r"-?[0-9]+", written):
        raise InputError(f"unknown class {written[:20]!r}; an index is in 0–999, a king penguin is 145")
    if not indices:
        raise InputError(f"unknown class {written!r}; {_suggestion(written)}")
    if len(indices) > 1:
        raise InputError(f"ambiguous class {written!r}; choose by index or wnid: {_listing(indices)}")
    return indices[0]


def _suggestion(written: str) -> str:
    near = get_close_matches(_key(written), _indices_by_key(), n=3, cutoff=0.6)
    if not near:
        return "give an index (145), a wnid ('n02056570') or a name ('king penguin')"
    return f"did you mean {_listing(dict.fromkeys(index for key in near for index in _indices_by_key()[key]))}?"


def _listing(indices: Iterable[int]) -> str:
    return ", ".join(f"{class_name(index)!r} ({index}, {class_wnid(index)})" for index in indices)

"""Targets: the class that a targeted attack wants of each image."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from transforms.data.classes import resolve_class
from transforms.data.pixels import CanvasBatch
from transforms.errors import InputError
from transforms.models.sources.source import CLASSES
from transforms.randomness import Draws

MOST = CLASSES - 1
"""Different classes that can be wanted of an image, which is never asked to become its own."""
_COLUMN = re.compile(r"[^\W@][^@]{0,99}")
"""A name of a variant has an `@` before the defence that it knows."""


@dataclass(frozen=True)
class Column:
    """The class that a column of the labels CSV gives the image."""

    name: str

    def __str__(self) -> str:
        return f"column:{self.name}"


@dataclass(frozen=True)
class Random:
    """A class that is drawn for the image by its id and the experiment's seed alone, so that all attacks want the same.

    Attributes:
        number: which of the image's, from 1. They differ from each other and from its label.
    """

    number: int = 1

    def __str__(self) -> str:
        return "random" if self.number == 1 else f"random:{self.number}"


@dataclass(frozen=True)
class Ranked:
    """By the surrogates' answer to the clean canvas, the likeliest class but the label, or the least likely (Kurakin et
    al. 2017, arXiv:1607.02533, §2.3). Several surrogates answer as one, fused as the attack fuses them; none of them
    looks through the defence that the attack knows, so that it wants the same as one that knows none."""

    name: Literal["second", "least-likely"]

    def __str__(self) -> str:
        return self.name


_RANKED = {str(each): each for each in (Ranked("second"), Ranked("least-likely"))}

Target = int | Column | Random | Ranked
"""A class, 0–999, for all images; or how each gets its own."""


def parse_target(written: Any) -> Target:
    """One target, as an experiment writes it or as `str` does; raises InputError if it is none."""
    if isinstance(written, Column | Random | Ranked):
        return written
    if isinstance(written, dict) and set(written) == {"column"}:
        written = f"column:{written['column']}"
    if not isinstance(written, str):
        return resolve_class(written)
    if written in _RANKED:
        return _RANKED[written]
    if found := re.fullmatch(r"random(?::([0-9]{1,3}))?", written):
        return Random(_number(int(found[1] or 1)))
    kind, colon, name = written.partition(":")
    if kind == "column" and colon:
        if not _COLUMN.fullmatch(name):
            raise InputError(
                f"{written!r} names no column; write {{column: NAME}}, of at most 100 characters, without @"
            )
        return Column(name)
    return resolve_class(written)


def parse_targets(written: Any) -> Target | tuple[Target, ...] | None:
    """What `target:` may be: nothing, one target, or several, of which `{random: N}` stands for N.

    Raises:
        InputError: it is none of these, or a target is listed twice.
    """
    if written is None:
        return None
    if isinstance(written, dict) and set(written) == {"random"}:
        if not isinstance(written["random"], int) or isinstance(written["random"], bool):
            raise InputError(f"random: {written['random']!r} is no number of targets; take 1–{MOST}")
        return tuple(Random(each + 1) for each in range(_number(written["random"])))
    if not isinstance(written, list | tuple):
        return parse_target(written)
    found = tuple(parse_target(each) for each in written)
    if not found:
        raise InputError("the list is empty; name classes, or leave target: out")
    for each in found:
        if found.count(each) > 1:
            raise InputError(f"{each} is listed twice")
    return found


def _number(number: int) -> int:
    if not 1 <= number <= MOST:
        raise InputError(f"random: {number} is out of range; an image has 1–{MOST} classes that are not its own")
    return number


def wanted(target: Target, batch: CanvasBatch, seed: int, answer: Callable[[], Tensor] | None = None) -> Tensor:
    """The class that is wanted of each image: int64 (N,).

    Args:
        batch: the images; of a `Column` with their `targets`.
        seed: the experiment's.
        answer: gives the fused surrogates' logits (N, classes) for the clean canvases; called for a `Ranked` alone.
    """
    labels = torch.tensor(batch.labels)
    if isinstance(target, int):
        return torch.full_like(labels, target)
    if isinstance(target, Column):
        if batch.targets is None:
            raise ValueError(f"{target}: the batch has no targets")
        return torch.tensor(batch.targets)
    if isinstance(target, Random):
        order = Draws(seed, "target", batch.image_ids).permutation(CLASSES, "classes")
        return order[order != labels[:, None]].view(len(labels), MOST)[:, target.number - 1]
    if answer is None:
        raise ValueError(f"{target}: there is no answer to follow")
    logits = answer()
    if target.name == "second":
        return logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    return logits.scatter(1, labels[:, None], torch.inf).argmin(dim=1)

"""Plug-ins: code of a user's own package. Whatever goes wrong in it is one line, and its random draws are keyed."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch

from transforms.errors import InputError, StoppedError, out_of_memory, said_by, unknown

# These are the machine's, nobody's wrong input: whoever called deals with them.
_MACHINE: tuple[type[BaseException], ...] = (OSError, StoppedError)
# Somebody's own file, on a machine that is well.
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
if hasattr(torch, "AcceleratorError"):  # torch 2.8
    _MACHINE = (*_MACHINE, torch.AcceleratorError)
# The random generators of torch, NumPy and Python belong to the process.
_GLOBAL_RANDOMNESS = RLock()


def installed(group: str, what: str) -> dict[str, EntryPoint]:
    """The entry points of a group that the installed packages offer, by name.

    Args:
        what: they are, as in "attack".

    Raises:
        InputError: two of them have one name.
    """
    found: dict[str, EntryPoint] = {}
    for each in _entry_points(group, tuple(map(_state, sys.path))):
        other = found.setdefault(each.name, each)
        if other.value != each.value:
            raise InputError(f"{what} {each.name!r} is offered twice, by {other.value} and by {each.value}")
    return found


@lru_cache(maxsize=8)
def _entry_points(group: str, _places: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Of all packages, whose files take long to read; of the same places there is the same to say."""
    return entry_points(group=group)


def _state(folder: str) -> tuple[str, int]:
    """A place where packages are, and when one came or went, in nanoseconds."""
    with suppress(OSError):
        return folder, Path(folder or ".").stat().st_mtime_ns
    return folder, 0


def loaded(group: str, what: str, name: str) -> Any:
    """What an installed package offers under a name.

    Args:
        what: it is, as in "attack".

    Raises:
        InputError: no package offers it, or it cannot be loaded.
    """
    offered = installed(group, what)
    if name not in offered:
        raise unknown(f"{what} of an installed package", name, offered)
    with refusing(f"{what} {name} ({offered[name].value})"):
        return offered[name].load()


@contextmanager
def refusing(what: str, *passing: type[Exception]) -> Iterator[None]:
    """Says what goes wrong in somebody else's code in one line; failures of the machine, and of `passing`, go through.

    Args:
        what: whose code it is, as in "attack scattered".
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{what}: needs: pip install {error.name}") from error
    except Exception as error:
        through = isinstance(error, (InputError, *passing, *_MACHINE)) and not isinstance(error, _MISSING)
        if through or out_of_memory(error):
            raise
        raise InputError(f"{what}: {said_by(error)}") from error


@contextmanager
def keyed_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds the generators that belong to the process, and puts them back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with _GLOBAL_RANDOMNESS, torch.random.fork_rng(devices=devices):
        python, numpy = random.getstate(), np.random.get_state()
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)

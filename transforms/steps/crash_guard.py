"""Crash guard. A unit of which a process has died is done in child processes, which die instead of this one. They are
given fewer and fewer images, and an image that kills three children alone is skipped and recorded in `failures`.

No `except` catches a segmentation fault, nor the kernel that kills for want of memory. So a file says what was begun,
before it begins, and is removed when it ends: the next process finds the files of those that died. Such a file blames
nobody, because a process is also killed from outside: a machine is taken away, somebody gives `kill -9`. A child that
dies while its parent lives died of its work.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from threading import Condition
from typing import Any, TypeVar
from uuid import uuid4

from transforms.rows.failures import failure_row
from transforms.steps.child import ChildDiedError, NoChildError, in_child
from transforms.storage.store import Store

T = TypeVar("T")

FOLDER = "attempts"
_NOTE = re.compile(rf"{FOLDER}/[0-9a-f]{{32}}\.[0-9a-f]{{32}}")
MOST = 3
"""Child processes that die of an image alone before it is skipped."""


def guarded(
    store: Store, unit: str, images: Sequence[str], work: Callable[[Sequence[int]], T]
) -> list[tuple[list[int], T]]:
    """Does a unit's work for its images, but for those that kill.

    Args:
        unit: a name for it, the same in every process.
        images: their ids, at least one.
        work: does the work for some of the images, at least one, given by number. It is pickled, and so what it
            returns.

    Returns:
        The images' numbers and what `work` made of them: all at once, or in several groups that leave out whatever
        kills.
    """
    numbers = list(range(len(images)))
    died = _died(store, unit)
    with _recorded(store, unit):
        if died:
            with suppress(NoChildError):
                return _isolated(work, numbers)
        with _turns.together():
            return [(numbers, work(numbers))]


def notes(store: Store) -> set[str]:
    """Paths of the files that say what was begun."""
    return {path for path in store.paths(FOLDER) if _NOTE.fullmatch(path)}


def death_rows(images: Sequence[str], kept: Collection[int]) -> list[dict[str, Any]]:
    """Rows of `failures` for the images that were left out."""
    message = f"{MOST} processes died of this image alone: out of memory, or a fault in a library"
    left_out = [image for number, image in enumerate(images) if number not in kept]
    return [failure_row(image, "ProcessDied", message, attempt=MOST) for image in left_out]


def _isolated(work: Callable[[Sequence[int]], T], numbers: list[int]) -> list[tuple[list[int], T]]:
    """Groups of images that kill no child process, and what `work` made of them; raises NoChildError."""
    is_one = len(numbers) == 1
    for _ in range(MOST if is_one else 1):
        with suppress(ChildDiedError), _turns.alone() if is_one else _turns.together():
            return [(numbers, in_child(partial(work, numbers)))]
    half = len(numbers) // 2
    return [] if is_one else _isolated(work, numbers[:half]) + _isolated(work, numbers[half:])


def _died(store: Store, unit: str) -> bool:
    """Whether a process began a unit and did not end it."""
    return any(path.startswith(_record(unit)) for path in notes(store))


@contextmanager
def _recorded(store: Store, unit: str) -> Iterator[None]:
    record = f"{_record(unit)}.{uuid4().hex}"
    store.publish_bytes(record, unit.encode(), lasting=False)
    try:
        yield
    finally:
        with suppress(OSError):  # If something went wrong before, that is what is told.
            store.delete([record])


def _record(unit: str) -> str:
    return f"{FOLDER}/{blake2b(unit.encode(), digest_size=16).hexdigest()}"


class _Turns:
    """Threads go in together, or one of them alone: the memory that others use is not put down to an image."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._is_alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._is_alone = True
            self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()


_turns = _Turns()

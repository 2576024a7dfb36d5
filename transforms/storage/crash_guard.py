"""Crash guard. A unit that has killed two processes is retried image by image; an image that kills a third is skipped
and recorded in `failures`.

No `except` catches a segmentation fault, nor the kernel that kills for want of memory. So a file says what was begun,
before it begins, and is removed when it ends: the next process finds the files of those that died.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from threading import Condition
from typing import Any, TypeVar
from uuid import uuid4

from transforms.errors import StoppedError
from transforms.rows.failures import failure_row
from transforms.storage.patience import within
from transforms.storage.store import Store

T = TypeVar("T")

FOLDER = "attempts"
MOST = 3
"""Processes that may die of an image."""


def guarded(
    store: Store, unit: str, images: Sequence[str], work: Callable[[Sequence[int]], T]
) -> tuple[list[int], T | None]:
    """Does a unit's work for its images, but for those that kill.

    While a unit of which a process has died is tried, this process tries nothing else, which would be blamed as well.

    Args:
        unit: a name for it, the same in every process.
        images: their ids.
        work: does the work for some of the images, at least one, given by number; perhaps for one alone and then again
            with the others.

    Returns:
        The numbers of the images that were not left out, and what `work` made of them; None where there are none.
    """
    died = _deaths(store, unit)
    with _turns.alone() if died else _turns.together():
        kept = list(range(len(images)))
        if died > MOST:  # Also without those that kill alone.
            kept = []
        elif died >= MOST - 1:
            kept = [number for number in kept if _survives(store, f"{unit} {images[number]}", partial(work, [number]))]
        if not kept:
            return [], None
        with _recorded(store, unit):
            return kept, work(kept)


@contextmanager
def no_blame(store: Store, workers_here: bool) -> Iterator[None]:
    """Forgets what workers have begun if they are stopped while the body runs: only those that die leave it behind.

    Args:
        workers_here: whether they are threads of this process. If not, an error may mean that some have died.
    """
    _begun.allow()
    before = store.paths(FOLDER)
    try:
        yield
    except BaseException as error:
        if workers_here or isinstance(error, KeyboardInterrupt):
            _begun.stop(_PATIENCE)
            with suppress(Exception):  # An object store that is away is not waited for.
                within(_PATIENCE, lambda: store.delete(store.paths(FOLDER) - before))
        raise


def death_rows(images: Sequence[str], kept: Collection[int]) -> list[dict[str, Any]]:
    """Rows of `failures` for the images that were left out."""
    message = f"{MOST} processes ended while they worked on this image: out of memory, or a fault in a library"
    left_out = [image for number, image in enumerate(images) if number not in kept]
    return [failure_row(image, "ProcessDied", message, attempt=MOST) for image in left_out]


def _survives(store: Store, unit: str, work: Callable[[], object]) -> bool:
    if _deaths(store, unit):
        return False
    with _recorded(store, unit):
        work()
    return True


def _deaths(store: Store, unit: str) -> int:
    """How many processes began a unit and did not end it."""
    record = _record(unit)
    return sum(path.startswith(record) for path in store.paths(FOLDER))


@contextmanager
def _recorded(store: Store, unit: str) -> Iterator[None]:
    record = f"{_record(unit)}.{uuid4().hex}"
    with _begun.one():
        store.publish_bytes(record, unit.encode(), lasting=False)
    try:
        yield
    finally:
        with suppress(OSError):  # If something went wrong before, that is what is told.
            store.delete([record])


def _record(unit: str) -> str:
    return f"{FOLDER}/{blake2b(unit.encode(), digest_size=16).hexdigest()}"


class _Turns:
    """Threads go in together, or one of them alone."""

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


class _Begun:
    """What threads are about to begin; once stopped, nothing more."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._number = 0
        self._stopping = False

    def allow(self) -> None:
        self._stopping = False

    def stop(self, seconds: float) -> None:
        """Waits for so long at most until everything has begun that was about to."""
        with self._changed:
            self._stopping = True
            self._changed.wait_for(lambda: self._number == 0, seconds)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Raises StoppedError where nothing is to begin."""
        with self._changed:
            if self._stopping:
                raise StoppedError("stopped")
            self._number += 1
        try:
            yield
        finally:
            with self._changed:
                self._number -= 1
                self._changed.notify_all()


_turns = _Turns()
_begun = _Begun()
_PATIENCE = 10.0
"""Seconds that forgetting may take."""

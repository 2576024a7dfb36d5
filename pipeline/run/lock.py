"""Locks: one run at a time in a run directory, or several shards of one.

A run holds `.lock` while it is at work. A shard holds a lock of its own, such as `.lock.3-16`, and `.lock` only while
it changes what all shards have in common.

On a disk the operating system locks a file, and the lock goes with the process, however it ends. An object store knows
no locks, nor do some network disks. There a run keeps changing a file, its lease. Another run that finds a lease
watches it: while it changes a run is at work, and if it stays as it is that run was killed. No clocks are compared. Two
runs that begin in the same second may still miss each other: their parts are the same and published whole, so that no
table is harmed.
"""

import errno
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

from filelock import FileLock, Timeout

from transforms.errors import InputError
from transforms.storage.files import is_remote
from transforms.storage.store import THREADS, Store

LOCK = ".lock"
BEAT = 10.0
"""Seconds between two changes of the file."""
WATCH = 3 * BEAT
"""Seconds without a change after which a run is taken for dead."""
PATIENCE = 600.0
"""Seconds that a shard waits for others to leave; each takes some to begin, and the first asks every model."""
_LOOK = 1.0
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_PARTING = 10.0
"""Seconds that the file may take to go; a store that went away is not waited for."""
_OF_A_SHARD = re.compile(rf"{re.escape(LOCK)}\.([0-9]+)-([0-9]+)")


class TakenError(InputError):
    """Another run is at work."""


def shard_lock(number: int, of: int) -> str:
    """The name of a shard's lock."""
    return f"{LOCK}.{number}-{of}"


def is_lock(path: str) -> bool:
    """Whether a file in a run directory is a lock, of a shard or of all."""
    return path == LOCK or is_shard_lock(path)


def is_shard_lock(path: str) -> bool:
    """Whether a file in a run directory is the lock of a shard."""
    return _OF_A_SHARD.fullmatch(path) is not None


@contextmanager
def lock(store: Store, name: str = LOCK) -> Iterator[None]:
    """Holds a run directory, or a share of it, against others.

    Args:
        name: of the lock, `LOCK` or a shard's.

    Raises:
        TakenError: another holds it.
        InputError: the run directory cannot be written.
    """
    with _lease(store, name) if is_remote(store.root) else _file_lock(store, name) or _lease(store, name):
        yield


@contextmanager
def lock_in_turn(store: Store, warn: Callable[[str], None]) -> Iterator[None]:
    """Like `lock`, after waiting for others to leave.

    Args:
        warn: told in one line that it waits.

    Raises:
        TakenError: another still holds it after `PATIENCE`.
        InputError: the run directory cannot be written.
    """
    until = time.monotonic() + PATIENCE
    with ExitStack() as held:
        for turn in count():
            try:
                held.enter_context(lock(store))
                break
            except TakenError:
                if time.monotonic() > until:
                    raise
            if turn == 0:
                warn(f"waiting for others that begin or end in {store.root}")
            time.sleep(_LOOK)
        yield


def shards_at_work(store: Store) -> list[str]:
    """Shards that are at work, such as `3/16`. Whoever asks holds `LOCK`, so that none begins meanwhile."""
    found = [match for path in sorted(store.paths()) if (match := _OF_A_SHARD.fullmatch(path))]
    with ThreadPoolExecutor(THREADS) as threads:
        taken = threads.map(lambda match: _is_taken(store, match[0]), found)
        return [f"{match[1]}/{match[2]}" for match, at_work in zip(found, taken, strict=True) if at_work]


def at_work(store: Store) -> list[str]:
    """Who is at work in a run directory, such as `shard 3/16`. Writes nothing; a lease that is left is watched."""
    found = sorted(filter(is_lock, store.paths()))
    with ThreadPoolExecutor(THREADS) as threads:
        held = threads.map(lambda name: _is_held(store, name), found)
        return [_holder(name) for name, is_held in zip(found, held, strict=True) if is_held]


def _is_held(store: Store, name: str) -> bool:
    if not is_remote(store.root):
        try:
            lock_of_the_system = _file_lock(store, name)
        except TakenError:
            return True
        except InputError:  # nobody writes there
            return False
        if lock_of_the_system is not None:
            lock_of_the_system.release()
            return False
    return _Lease(store, name).is_alive()


def _is_taken(store: Store, name: str) -> bool:
    try:
        with lock(store, name):
            return False
    except TakenError:
        return True


def _file_lock(store: Store, name: str) -> FileLock | None:
    """The operating system's lock; None where the disk knows none. Raises like `lock`."""
    # Otherwise filelock would take the mere presence of the file for a lock, also after its process has died.
    held = FileLock(Path(store.root, name), timeout=0, fallback_to_soft=False)
    try:
        Path(store.root).mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise _taken(store, name) from None
    except NotImplementedError:
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise InputError(f"--output: {store.root} cannot be written: {error}") from None
    return held


@contextmanager
def _lease(store: Store, name: str) -> Iterator[None]:
    """Holds what a lock stands for where there are no locks. Raises like `lock`."""
    lease = _Lease(store, name)
    try:
        if lease.is_alive():
            raise _taken(store, name)
        lease.sign(0)
    except OSError as error:
        raise InputError(f"--output: {store.root} cannot be written: {error}") from None
    time.sleep(_LOOK)  # Whoever began at the same time signed after we did, or sees our signature.
    if not lease.is_signed():
        raise _taken(store, name)
    stop = Event()
    beats = Thread(target=lease.beat, args=(stop,), daemon=True)
    beats.start()
    try:
        yield
    finally:
        stop.set()
        beats.join(_PARTING)


def _taken(store: Store, name: str) -> TakenError:
    return TakenError(f"--output: {_holder(name)} is at work in {store.root}; wait for it, or stop it")


def _holder(name: str) -> str:
    shard = _OF_A_SHARD.fullmatch(name)
    return f"shard {shard[1]}/{shard[2]}" if shard else "another run"


class _Lease:
    """A file that its holder keeps changing."""

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._holder = uuid4().hex

    def is_alive(self) -> bool:
        """Whether somebody holds it; takes as long as it takes to see that nobody does."""
        found = self._signature()
        looks = round(WATCH / _LOOK) if found else 0
        for _ in range(looks):
            time.sleep(_LOOK)
            now = self._signature()
            if now != found:
                return bool(now)
        return False

    def beat(self, stop: Event) -> None:
        """Signs until told to stop, then deletes the file."""
        number = 0
        while not stop.wait(BEAT):
            number += 1
            with suppress(OSError):  # The run itself will notice if the store stays away.
                self.sign(number)
        with suppress(OSError):
            if self.is_signed():
                self._store.delete([self._path])

    def sign(self, number: int) -> None:
        """Says that its holder lives."""
        self._store.publish_bytes(self._path, f"{self._holder} {number}".encode())

    def is_signed(self) -> bool:
        """Whether nobody else has signed since."""
        return self._signature().startswith(f"{self._holder} ")

    def _signature(self) -> str:
        """What the file says; nothing where there is none."""
        try:
            return self._store.read_bytes(self._path).decode()
        except FileNotFoundError:
            return ""

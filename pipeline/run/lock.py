"""The lock: one run at a time in a run directory.

On a disk the operating system locks a file, and the lock goes with the process, however it ends. An object store knows
no locks, nor do some network disks. There a run keeps changing a file, its lease. Another run that finds a lease
watches it: while it changes a run is at work, and if it stays as it is that run was killed. No clocks are compared. Two
runs that begin in the same second may still miss each other: their parts are the same and published whole, so that no
table is harmed.
"""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

from filelock import FileLock, Timeout

from transforms.errors import InputError
from transforms.storage.files import is_remote
from transforms.storage.store import Store

LOCK = ".lock"
BEAT = 10.0
"""Seconds between two changes of the file."""
WATCH = 3 * BEAT
"""Seconds without a change after which a run is taken for dead."""
_LOOK = 1.0
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
_PARTING = 10.0
"""Seconds that the file may take to go; a store that went away is not waited for."""


@contextmanager
def lock(store: Store) -> Iterator[None]:
    """Holds a run directory against other runs.

    Raises:
        InputError: another run is at work in it, or it cannot be written.
    """
    with _lease(store) if is_remote(store.root) else _file_lock(store) or _lease(store):
        yield


def _file_lock(store: Store) -> FileLock | None:
    """The operating system's lock; None where the disk knows none. Raises InputError like `lock`."""
    # Otherwise filelock would take the mere presence of the file for a lock, also after its process has died.
    held = FileLock(Path(store.root, LOCK), timeout=0, fallback_to_soft=False)
    try:
        Path(store.root).mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise _taken(store) from None
    except NotImplementedError:
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise InputError(f"--output: {store.root} cannot be written: {error}") from None
    return held


@contextmanager
def _lease(store: Store) -> Iterator[None]:
    """Holds a run directory against other runs where there are no locks.

    Raises:
        InputError: another run is at work in it, or it cannot be written.
    """
    name = uuid4().hex
    try:
        if _is_alive(store):
            raise _taken(store)
        _sign(store, name, 0)
    except OSError as error:
        raise InputError(f"--output: {store.root} cannot be written: {error}") from None
    time.sleep(_LOOK)  # Whoever began at the same time signed after we did, or sees our signature.
    if not _is_signed(store, name):
        raise _taken(store)
    stop = Event()
    beats = Thread(target=_beat, args=(store, name, stop), daemon=True)
    beats.start()
    try:
        yield
    finally:
        stop.set()
        beats.join(_PARTING)


def _taken(store: Store) -> InputError:
    return InputError(f"--output: another run is at work in {store.root}; wait for it, or stop it")


def _is_alive(store: Store) -> bool:
    found = _signature(store)
    looks = round(WATCH / _LOOK) if found else 0
    for _ in range(looks):
        time.sleep(_LOOK)
        now = _signature(store)
        if now != found:
            return bool(now)
    return False


def _beat(store: Store, name: str, stop: Event) -> None:
    """Signs until told to stop, then deletes the file."""
    number = 0
    while not stop.wait(BEAT):
        number += 1
        with suppress(OSError):  # The run itself will notice if the store stays away.
            _sign(store, name, number)
    with suppress(OSError):
        if _is_signed(store, name):
            store.delete([LOCK])


def _sign(store: Store, name: str, number: int) -> None:
    store.publish_bytes(LOCK, f"{name} {number}".encode())


def _is_signed(store: Store, name: str) -> bool:
    return _signature(store).startswith(f"{name} ")


def _signature(store: Store) -> str:
    """What the file says; nothing where there is none."""
    try:
        return store.read_bytes(LOCK).decode()
    except FileNotFoundError:
        return ""

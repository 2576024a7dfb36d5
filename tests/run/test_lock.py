"""One run at a time, also on disks whose filesystem knows no locks, which is played here: this machine has none."""

import errno
import fcntl
from pathlib import Path

import pytest

from pipeline.run.lock import LOCK, lock
from transforms.errors import InputError
from transforms.storage.store import Store


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """On a disk without locks; leases change quickly."""

    def refuses(*_: object) -> None:
        raise OSError(request.param, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuses)
    for name, seconds in {"BEAT": 0.05, "WATCH": 0.5, "_LOOK": 0.1}.items():
        monkeypatch.setattr(f"pipeline.run.lock.{name}", seconds)
    return Store(str(tmp_path / "run"))


def test_where_there_are_no_locks_a_run_at_work_is_seen(store: Store) -> None:
    with lock(store), pytest.raises(InputError, match="another run is at work"), lock(store):
        pass
    with lock(store):
        pass
    assert not store.exists(LOCK)


@pytest.mark.parametrize("left", ["", "0123456789abcdef 7"])
def test_where_there_are_no_locks_a_dead_run_blocks_nobody(left: str, store: Store) -> None:
    store.publish_bytes(LOCK, left.encode())
    with lock(store):
        assert store.read_bytes(LOCK).decode() != left


def test_the_operating_systems_lock_is_of_one_run_at_a_time(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    with lock(store), pytest.raises(InputError, match="another run is at work"), lock(store):
        pass
    with lock(store):
        pass

"""One run at a time, also on disks whose filesystem knows no locks, which is played here: this machine has none."""

import errno
import fcntl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.run.lock import LOCK, TakenError, at_work, lock, lock_in_turn, shard_lock, shards_at_work
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


def test_who_looks_sees_who_is_at_work(store: Store, tmp_path: Path) -> None:
    with lock(store, shard_lock(3, 16)):
        assert at_work(store) == ["shard 3/16"]
    store.publish_bytes(LOCK, b"0123456789abcdef 7")
    assert at_work(store) == []
    assert store.read_bytes(LOCK) == b"0123456789abcdef 7"


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


def test_who_waits_for_a_turn_gets_it_and_says_so_once(store: Store) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(1) as others:
        with lock(store):
            waiting = others.submit(_take_a_turn, store, said.append)
            while not said:
                assert not waiting.done()
                time.sleep(0.01)
            assert not waiting.done()
        waiting.result(30)
    assert said == [f"waiting for others that begin or end in {store.root}"]


def test_nobody_waits_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.run.lock.PATIENCE", 0.2)
    with lock(store), pytest.raises(TakenError):
        _take_a_turn(store, lambda _: None)


def test_shards_at_work_are_seen_and_dead_ones_are_not(store: Store) -> None:
    store.publish_bytes(shard_lock(2, 16), b"0123456789abcdef 7")
    with lock(store, shard_lock(3, 16)), lock(store, shard_lock(11, 16)), lock(store):
        assert shards_at_work(store) == ["11/16", "3/16"]
        with pytest.raises(TakenError, match="shard 3/16 is at work"), lock(store, shard_lock(3, 16)):
            pass
    assert shards_at_work(store) == []


def _take_a_turn(store: Store, warn: Callable[[str], None]) -> None:
    with lock_in_turn(store, warn):
        pass

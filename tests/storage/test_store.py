"""Parts are published whole or not at all, under names that any filesystem takes."""

import errno
import os
import pickle
import re
import threading
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from transforms.rows.parts import Part, attacks_part, canvases_part, images_part, load_parts, predictions_part
from transforms.rows.tables import TABLES, rows_table
from transforms.storage.store import Store

ODD = "[x] y's #1 100% a=b&c*?"


def images(count: int, uri: str = "u") -> pa.Table:
    row = {"label": 1, "label_name": "goldfish", "width": 2, "height": 3, "bytes_sha256": "0" * 64}
    return rows_table("images", [{"image_id": f"i{number}", "uri": uri, **row} for number in range(count)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ODD


@pytest.fixture
def store(folder: Path) -> Store:
    return Store(str(folder))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- publishing


def test_what_is_published_can_be_read(store: Store, folder: Path) -> None:
    part = images_part(3)
    assert not store.has(part)
    store.publish(part, images(5))
    assert store.has(part)
    assert store.read(part).equals(images(5))
    assert files(folder) == ["images/chunk-00003.parquet"]
    assert store.paths() == {"images/chunk-00003.parquet"}
    assert store.is_whole(part.path)


def test_publishing_is_idempotent(store: Store, folder: Path) -> None:
    store.publish(images_part(0), images(5))
    first = (folder / images_part(0).path).read_bytes()
    store.publish(images_part(0), images(5))
    assert (folder / images_part(0).path).read_bytes() == first
    assert len(files(folder)) == 1


def test_an_empty_part_is_a_part(store: Store) -> None:
    store.publish(attacks_part(0, "pgd"), rows_table("attacks", []))
    assert store.has(attacks_part(0, "pgd"))
    assert store.is_whole(attacks_part(0, "pgd").path)
    read = store.read(attacks_part(0, "pgd"))
    assert read.num_rows == 0
    assert read.schema.equals(TABLES["attacks"].columns)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
    """Half of what is written reaches the disk."""

    def full(path: Path, content: bytes, *, lasting: bool) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("transforms.storage.store._write", full)


def seen(folder: Path, table: str) -> int:
    """Rows that a reader of the whole folder finds."""
    return int(ds.dataset(str(folder / table), format="parquet", schema=TABLES[table].columns).count_rows())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_full_or_failing_disk_leaves_no_visible_part(
    number: int, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(images_part(0), images(5))
    fill_the_disk(monkeypatch, number)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        store.publish(images_part(1), images(50))
    assert caught.value.errno == number
    assert not store.has(images_part(1))
    assert [name for name in files(folder) if name.endswith(".parquet")] == ["images/chunk-00000.parquet"]
    assert seen(folder, "images") == 5


def test_a_full_disk_spares_what_was_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(images_part(0), images(5))
    fill_the_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        store.publish(images_part(0), images(6))
    assert store.read(images_part(0)).equals(images(5))


def test_until_it_is_renamed_nobody_sees_a_part(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment before, everything is written: under another name, which readers pass over."""
    moments: list[list[str]] = []
    rename = os.replace

    def watched(source: Path, destination: str) -> None:
        moments.append(files(folder))
        assert not Path(destination).exists()
        assert seen(folder, "images") == 0
        assert not store.has(images_part(0))
        rename(source, destination)

    monkeypatch.setattr(os, "replace", watched)
    store.publish(images_part(0), images(5))
    ((temporary,),) = moments
    assert Path(temporary).name.startswith(".")
    assert Path(temporary).suffix != ".parquet"
    assert seen(folder, "images") == 5


def test_what_gets_its_name_has_reached_the_disk(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it: or a loss of power could leave the name with fewer bytes, or none."""
    moments: list[tuple[str, int, int]] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        moments.append(("synced", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))

    def renamed(source: Path, destination: str) -> None:
        rename(source, destination)
        moments.append(("renamed", Path(destination).stat().st_ino, Path(destination).stat().st_size))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    store.publish(images_part(0), images(5))
    part = (folder / images_part(0).path).stat()
    assert moments == [(word, part.st_ino, part.st_size) for word in ("synced", "renamed")]


def test_a_copy_begins_no_run_directory_anew_that_was_moved_away(tmp_path: Path) -> None:
    """Steps get copies, some of which write for the first time when others have long written."""
    root = tmp_path / "run"
    begins = Store(str(root))
    begins.publish(images_part(0), images(5))
    copied: Store = pickle.loads(pickle.dumps(Store(str(root))))  # noqa: S301 - our own
    root.rename(tmp_path / "elsewhere")
    for store in (begins, copied):
        with pytest.raises(FileNotFoundError, match="moved or removed"):
            store.publish(images_part(1), images(5))
    assert not root.exists()


def test_two_writers_use_two_temporary_names(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A duplicate attempt, by a second worker at the same time, harms nobody."""
    rename = os.replace
    sources_seen: list[Path] = []

    def interleaved(source: Path, destination: str) -> None:
        sources_seen.append(source)
        if len(sources_seen) == 1:
            store.publish(images_part(0), images(5))  # the other one begins and ends in between
        rename(source, destination)

    monkeypatch.setattr(os, "replace", interleaved)
    store.publish(images_part(0), images(5))
    assert len(set(sources_seen)) == 2
    assert files(folder) == ["images/chunk-00000.parquet"]
    assert store.read(images_part(0)).equals(images(5))


def test_a_reader_sees_the_old_part_or_the_new_one(store: Store) -> None:
    old, new = images(2_000, "old"), images(3_000, "new")
    store.publish(images_part(0), old)
    done = threading.Event()

    def publish() -> None:
        try:
            for turn in range(60):
                store.publish(images_part(0), (new, old)[turn % 2])
        finally:
            done.set()

    writer = threading.Thread(target=publish)
    writer.start()
    counts = set()
    while not done.is_set():
        table = store.read(images_part(0))
        assert table.equals(old) or table.equals(new)
        counts.add(table.num_rows)
    writer.join()
    assert counts <= {2_000, 3_000} and counts


# --- whole or not


def test_a_truncated_part_is_not_whole(store: Store, folder: Path) -> None:
    store.publish(images_part(0), images(5))
    whole = (folder / images_part(0).path).read_bytes()
    for size in [*range(12), len(whole) // 2, len(whole) - 8, len(whole) - 4, len(whole) - 1]:
        (folder / images_part(0).path).write_bytes(whole[:size])
        assert not store.is_whole(images_part(0).path), f"{size} of {len(whole)} bytes"
    (folder / images_part(0).path).write_bytes(whole)
    assert store.is_whole(images_part(0).path)


def test_a_part_full_of_nothing_is_not_whole(store: Store, folder: Path) -> None:
    """Some filesystems, after power is lost, give a file back at its full size with zeros for bytes."""
    store.publish(images_part(0), images(5))
    path = folder / images_part(0).path
    path.write_bytes(bytes(path.stat().st_size))
    assert not store.is_whole(images_part(0).path)


def test_delete(store: Store, folder: Path) -> None:
    for chunk in range(3):
        store.publish(images_part(chunk), images(1))
    store.delete([])
    store.delete([images_part(0).path, images_part(2).path])
    assert files(folder) == ["images/chunk-00001.parquet"]


def test_a_root_that_is_not_there_holds_nothing(store: Store) -> None:
    assert store.paths() == set()


# --- names


@pytest.mark.parametrize(
    ("part", "path"),
    [
        (images_part(0), "images/chunk-00000.parquet"),
        (images_part(123_456), "images/chunk-123456.parquet"),
        (canvases_part(1, "none"), "canvases/attack=none/chunk-00001.parquet"),
        (attacks_part(2, "mi4"), "attacks/attack=mi4/chunk-00002.parquet"),
        (load_parts(4)[0], "failures/stage=load/attack=none/model=none/view=none/defense=none/chunk-00004.parquet"),
        (
            predictions_part(3, "mi4", "lite0", "center", "lowpass:cutoff=0.7"),
            "predictions/attack=mi4/model=lite0/view=center/defense=lowpass%3Acutoff%3D0.7/chunk-00003.parquet",
        ),
    ],
)
def test_parts_have_names_that_say_what_they_hold(part: Part, path: str) -> None:
    assert part.path == path


@pytest.mark.parametrize(
    "defense", ["a:b=1,c=-0.5", "blur:sigma=1e-07", "a/b", "100%", "%2F", "ümlaut", "x y", "a=b=c", "[0]*?", ".hidden"]
)
def test_odd_names_come_back_from_paths(defense: str, store: Store, folder: Path) -> None:
    part = predictions_part(0, "none", "m", "center", defense)
    store.publish(part, rows_table("predictions", []))
    assert store.has(part)
    ((name,),) = [[each for each in Path(path).parts if each.startswith("defense=")] for path in files(folder)]
    assert unquote(name.removeprefix("defense=")) == defense
    assert os.sep not in name
    assert files(folder) == [part.path]
    assert store.paths() == {part.path}


def test_different_names_have_different_paths() -> None:
    names = ["a", "A", "a b", "a+b", "a%20b", "a/b", "a:b", "a=b"]
    assert len({attacks_part(0, name).path for name in names}) == len(names)

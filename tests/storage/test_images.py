"""Reading images: what is one file's fault becomes its row, what may be the disk's stops the run."""

import errno
import os
import socket
from pathlib import Path

import pytest

from tests.support.runs import is_root, sample_files
from transforms.data.chunks import ImageRef
from transforms.data.decode import BadImage, CanvasSpec
from transforms.errors import StoppedError
from transforms.storage import images
from transforms.storage.files import read_bytes, slice_uri
from transforms.storage.images import read_image

JPEG = sample_files()[0].read_bytes()


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited between tries."""
    waited: list[float] = []
    monkeypatch.setattr(images, "sleep", waited.append)
    return waited


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    return tmp_path


def read(path: Path | str) -> bytes:
    return read_image(ImageRef("x", str(path), 1), CanvasSpec(32, 32))[0]


PASSING = [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV]


@pytest.mark.parametrize("number", PASSING)
def test_a_disk_that_fails_stops_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, waited: list[float], number: int
) -> None:
    def fails(uri: str, limit: int) -> bytes:
        raise OSError(number, os.strerror(number), uri)

    monkeypatch.setattr(images, "read_bytes", fails)
    with pytest.raises(StoppedError, match=rf"1\.jpg cannot be read: {os.strerror(number)}") as caught:
        read(folder / "1.jpg")
    assert "\n" not in str(caught.value)
    assert len(waited) > 2 and 2 < sum(waited) < 60


@pytest.mark.parametrize("number", PASSING)
def test_a_disk_that_comes_back_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real, failures = read_bytes, [number, number]

    def fails_twice(uri: str, limit: int) -> bytes:
        if failures:
            raise OSError(failures.pop(), "away", uri)
        return real(uri, limit)

    monkeypatch.setattr(images, "read_bytes", fails_twice)
    assert read(folder / "1.jpg") == JPEG


def test_one_that_is_gone_is_its_own_fault_and_all_are_not(folder: Path) -> None:
    (folder / "1.jpg").unlink()
    with pytest.raises(BadImage, match=r"cannot be read: .*No such file"):
        read(folder / "1.jpg")
    (folder / "2.jpg").unlink()  # as where nothing is mounted any more
    with pytest.raises(StoppedError, match="No such file"):
        read(folder / "1.jpg")
    with pytest.raises(StoppedError, match="No such file"):
        read(folder / "away" / "1.jpg")


def test_an_archive_that_is_gone_stops_the_run(folder: Path) -> None:
    (folder / "val.tar").write_bytes(JPEG)
    uri = slice_uri(str(folder / "val.tar"), 0, len(JPEG))
    assert read(uri) == JPEG
    (folder / "val.tar").write_bytes(JPEG[:100])
    with pytest.raises(BadImage, match="ends inside the slice"):
        read(uri)
    (folder / "val.tar").unlink()
    with pytest.raises(StoppedError, match="No such file"):
        read(uri)


@pytest.mark.skipif(is_root(), reason="whom no permission stops")
def test_one_that_is_forbidden_is_its_own_fault_and_all_are_not(folder: Path) -> None:
    (folder / "1.jpg").chmod(0)
    with pytest.raises(BadImage, match="Permission denied"):
        read(folder / "1.jpg")
    (folder / "2.jpg").chmod(0)
    with pytest.raises(StoppedError, match="Permission denied"):
        read(folder / "1.jpg")


def test_forbidden_by_its_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above; nobody forbids root, so the system's answers are made up."""

    def fails(uri: str, limit: int) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", uri)

    monkeypatch.setattr(images, "read_bytes", fails)
    with pytest.raises(BadImage, match="Permission denied"):
        read(folder / "1.jpg")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StoppedError, match="Permission denied"):
        read(folder / "1.jpg")


def test_pipes_sockets_and_devices_are_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zeros.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.jpg"))
        for name in ("pipe.jpg", "zeros.jpg", "socket.jpg"):
            with pytest.raises(BadImage, match=r"cannot be read: .*is a pipe, a socket or a device"):
                read(folder / name)
    (folder / "folder.jpg").mkdir()
    with pytest.raises(BadImage, match="Is a directory"):
        read(folder / "folder.jpg")

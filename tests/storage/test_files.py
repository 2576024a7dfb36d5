"""Reading bytes: whole files, slices, limits."""

import errno
import gzip
from pathlib import Path

import pytest

from transforms.storage.files import read_bytes, slice_uri


@pytest.mark.parametrize("name", ["plain", "a#b.jpg", "100%25.jpg", "x#bytes=y", "[1]*?.png"])
def test_whole_file_of_any_ordinary_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"0123456789")
    assert read_bytes(str(tmp_path / name), 10) == b"0123456789"


def test_slice(tmp_path: Path) -> None:
    path = tmp_path / "a#b"
    path.write_bytes(b"0123456789")
    assert slice_uri("f", 2, 3) == "f#bytes=2-4"
    assert read_bytes(slice_uri(str(path), 2, 3), 3) == b"234"
    assert read_bytes(slice_uri(str(path), 9, 1), 3) == b"9"


def test_never_decompresses(tmp_path: Path) -> None:
    packed = gzip.compress(b"text")
    (tmp_path / "a.gz").write_bytes(packed)
    assert read_bytes(str(tmp_path / "a.gz"), 100) == packed


@pytest.mark.parametrize("suffix", ["", "#bytes=0-9"])
def test_more_than_the_limit_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    assert len(read_bytes(f"{tmp_path}/f{suffix}", 10)) == 10
    with pytest.raises(OSError, match="larger than 9 bytes") as caught:
        read_bytes(f"{tmp_path}/f{suffix}", 9)
    assert caught.value.errno == errno.EFBIG


def test_a_slice_beyond_the_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with pytest.raises(OSError, match="after 2 of 5 bytes"):
        read_bytes(f"{tmp_path}/f#bytes=8-12", 100)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{tmp_path}/absent", 10)

"""The cache folder: what is damaged is not there, many write at once, and it does not grow without end."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from transforms import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEGALITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_written_is_read_and_nothing_else(folder: Path) -> None:
    assert cache.read("a/b") is None
    cache.write("a/b", b"some bytes")
    cache.write("c", b"")
    assert (cache.read("a/b"), cache.read("c"), cache.read("a")) == (b"some bytes", b"", None)
    assert [each.name for each in (folder / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("content", [b"", b"short", b"0" * 32 + b"some bytes", None])
def test_a_damaged_file_is_none(content: bytes | None, folder: Path) -> None:
    cache.write("a", b"some bytes")
    whole = (folder / "a").read_bytes()
    (folder / "a").write_bytes(whole[:-1] if content is None else content)
    assert cache.read("a") is None
    cache.write("a", b"some bytes")
    assert (folder / "a").read_bytes() == whole


def test_where_nothing_can_be_kept_nothing_is_said(folder: Path) -> None:
    folder.write_text("a file where the folder should be")
    cache.write("a", b"some bytes")
    assert cache.read("a") is None
    assert folder.read_text().startswith("a file")


def test_many_may_write_one_name_and_read_it_whole() -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]

    def work(content: bytes) -> bool:
        cache.write("a", content)
        return all(cache.read("a") in contents for _ in range(20))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, contents))


def test_what_was_not_used_for_longest_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_BYTES", 3 * 132)
    for number, name in enumerate(("old", "read", "new")):
        cache.write(f"kind/{name}", bytes(100))
        os.utime(folder / "kind" / name, (number, number))
    assert cache.read("kind/old") is not None
    cache.write("another", bytes(100))
    assert {each.name for each in folder.rglob("*") if each.is_file()} == {"old", "new", "another"}


def test_it_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given, place in (("MEGALITH_CACHE", "cache"), ("XDG_CACHE_HOME", "xdg/megalith"), ("", "home/.cache/megalith")):
        cache.write("a", b"")
        assert (tmp_path / place / "a").is_file()
        monkeypatch.delenv(given, raising=False)

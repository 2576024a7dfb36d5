"""What `megalith list` remembers between two calls."""

from pathlib import Path

import pytest

from pipeline.cli import remembered as room
from pipeline.cli.remembered import remembered


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGALITH_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "_PLUG_INS", ("no.such.group",))


def test_it_is_found_once_for_each_state_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def find() -> list[list[str]]:
        calls.append(1)
        return [["a", str(len(calls))]]

    assert remembered("list x", find) == remembered("list x", find) == [["a", "1"]]
    assert remembered("list y", find) == [["a", "2"]]
    monkeypatch.setattr(room, "_state", lambda: "another version is installed")
    assert remembered("list x", find) == [["a", "3"]]


def test_plug_ins_are_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "entry_points", lambda group: ["one"])
    assert [remembered("list x", lambda: 1), remembered("list x", lambda: 2)] == [1, 2]

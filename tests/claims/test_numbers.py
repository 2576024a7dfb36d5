"""The commands and the Python of docs/numbers.md, on the kept rows of the run that they are of."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.evidence import unpacked
from pipeline.results.outcomes import DENOMINATORS, METRICS, VERDICTS
from tests.support.runs import ROOT, invoke

PAGE = (ROOT / "docs" / "numbers.md").read_text()


@pytest.fixture(autouse=True)
def beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "runs").mkdir()
    with unpacked("quickstart") as run_directory:
        (tmp_path / "runs" / "quickstart").symlink_to(run_directory)
        monkeypatch.chdir(tmp_path)
        yield


def test_the_tables_are_made_by_the_commands_above_them() -> None:
    shown = re.findall(r"^```\nmegalith (.+)\n```\n<!-- megalith (.+) -->\n\|", PAGE, flags=re.M)
    assert len(shown) == 3
    assert [command for command, made in shown if command.replace("runs/", "") != made] == []


def test_the_page_lists_every_metric_and_denominator() -> None:
    listed = re.findall(r"^\| `(\w[\w-]+)` \|", PAGE, flags=re.M)
    assert listed == [*METRICS, *VERDICTS, *DENOMINATORS]


def test_other_commands_run() -> None:
    commands = re.findall(r"`megalith ((?:table|compare|leaderboard)\s[^`]*quickstart[^`]*)`", PAGE)
    assert commands
    for command in commands:
        assert invoke(*command.split()).exit_code == 0


def test_the_python_runs() -> None:
    (code,) = re.findall(r"^```python\n([\s\S]+?)^```", PAGE, flags=re.M)
    exec(code, {})  # noqa: S102

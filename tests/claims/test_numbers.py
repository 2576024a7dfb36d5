"""The commands and the Python of docs/numbers.md, on the run that they are of."""

import re
from pathlib import Path

import pytest

from tests.support.runs import ROOT, Finished, invoke

pytestmark = [pytest.mark.system, pytest.mark.alone]
PAGE = (ROOT / "docs" / "numbers.md").read_text()


@pytest.fixture(autouse=True)
def beside_the_run(quickstart_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(quickstart_run.output)
    monkeypatch.chdir(tmp_path)


def test_commands_answer_as_the_page_shows() -> None:
    """But for digits: an image or two flips with the machine, and with it a width."""
    shown = re.findall(r"^```\n\$ megalith (.+)\n([\s\S]+?)^```", PAGE, flags=re.M)
    assert len(shown) == 3
    for command, answer in shown:
        result = invoke(*command.split())
        assert result.exit_code == 0, result.output
        assert _without_digits(result.stdout) == _without_digits(answer)


def _without_digits(text: str) -> list[str]:
    words = re.sub(r"[^\w\s(]|[\d.]+(e-?\d+)?|unclear|yes", " ", text)
    return sorted(words.split())


def test_other_commands_run() -> None:
    commands = re.findall(r"`megalith ((?:table|compare|leaderboard)\s[^`]*quickstart[^`]*)`", PAGE)
    assert commands
    for command in commands:
        assert invoke(*command.split()).exit_code == 0


def test_the_python_runs() -> None:
    (code,) = re.findall(r"^```python\n([\s\S]+?)^```", PAGE, flags=re.M)
    exec(code, {})  # noqa: S102

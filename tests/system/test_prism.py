"""Prism, the runner that Beam's DirectRunner becomes where there is internet: the same tables, and no process left."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.preforked import wait_until
from tests.support.runners import Begin, GoInstall, beam_in_go, interrupt, running
from tests.support.runs import REAL, Finished, command, contents, run, tiny, what_was_counted, written

pytestmark = [pytest.mark.system, pytest.mark.alone]


@pytest.fixture
def prism(go_install: GoInstall, tmp_path: Path) -> Iterator[Path]:
    """A program of its own for each test, so that its processes can be told from others."""
    program = Path(shutil.copy(go_install(beam_in_go("go/cmd/prism")), tmp_path))
    yield program
    left = running(program)
    for each in left:
        os.kill(each, signal.SIGKILL)
    assert left == []


def options(prism: Path) -> list[str]:
    return ["--runner=prism", f"--prism_location={prism}"]


def test_prism_makes_the_same_tables(prism: Path, real_run: Finished, tmp_path: Path, begin: Begin) -> None:
    process = begin("run", real_run.experiment, "--output", tmp_path / "run", *options(prism))
    assert process.wait() == 0
    said = (tmp_path / "log" / "stderr").read_text()
    assert {line.partition(":")[0] for line in said.splitlines()} == {"small", ""}, said
    assert contents(tmp_path / "run") == contents(real_run.output)
    assert what_was_counted(tmp_path / "run") == what_was_counted(real_run.output)


def test_an_interrupted_run_goes_on(prism: Path, real_run: Finished, tmp_path: Path, begin: Begin) -> None:
    """Ctrl-C is one line, and the same command goes on."""
    output = tmp_path / "run"
    process = begin("run", real_run.experiment, "--output", output, *options(prism))
    wait_until(lambda: any(output.glob("attacks/*/*.parquet")), process)
    assert len(running(prism)) == 1
    interrupt(process)
    assert process.wait(60) == 130
    said = (tmp_path / "log" / "stderr").read_text().splitlines()[-1]
    assert said == "megalith: interrupted; what is finished is kept, the same command goes on"
    assert running(prism) == []
    assert contents(output).items() < contents(real_run.output).items()
    run(real_run.experiment, output)
    assert contents(output) == contents(real_run.output)


def test_a_run_that_fails_says_why_and_leaves_no_process(prism: Path, tmp_path: Path, begin: Begin) -> None:
    """Where a folder should be made is a file. Beam prints a traceback for each bundle that fails, even after us."""
    output = tmp_path / "run"
    run(written(tmp_path, tiny(attacks={})), output)
    (output / "attacks").write_text("mine")
    process = begin("run", written(tmp_path, tiny()), "--output", output, *options(prism))
    assert process.wait(120) == 1
    (said,) = re.findall(r"^megalith: .*", (tmp_path / "log" / "stderr").read_text(), flags=re.M)
    assert said.startswith("megalith: stopped: ") and str(output / "attacks") in said
    assert running(prism) == []


def test_a_lost_prism_is_one_line(prism: Path, tmp_path: Path, begin: Begin) -> None:
    """And what was finished is kept."""
    output = tmp_path / "run"
    process = begin("run", written(tmp_path, tiny(models=REAL)), "--output", output, *options(prism))
    wait_until(lambda: any(output.glob("images/*.parquet")), process)
    os.kill(running(prism)[0], signal.SIGKILL)
    assert process.wait(60) == 1
    said = (tmp_path / "log" / "stderr").read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("megalith: stopped: PrismRunner: ")
    assert contents(output) != {}


def test_a_program_that_is_none_is_one_line(tmp_path: Path) -> None:
    experiment = written(tmp_path, tiny(attacks={}, defenses={}))
    result = command("run", experiment, "--output", tmp_path / "run", *options(Path("/absent")))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    said = result.stderr.splitlines()[-1]
    assert said.startswith("megalith: stopped: PrismRunner: ") and "/absent" in said

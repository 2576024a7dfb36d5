"""Prism, the runner that Beam's DirectRunner becomes where there is internet: the same tables, and no process left."""

import shutil
import signal
from pathlib import Path

import pytest
from pipeline_helpers import Finished, command, contents, run, start, tiny, wait_until, written
from runner_fixtures import GoInstall, beam_in_go, running

pytest_plugins = ["pipeline_fixtures", "runner_fixtures"]


@pytest.fixture
def prism(go_install: GoInstall, tmp_path: Path) -> Path:
    """A program of its own for each test, so that its processes can be told from others."""
    return Path(shutil.copy(go_install(beam_in_go("go/cmd/prism")), tmp_path))


def test_prism_makes_the_same_tables(prism: Path, tiny_run: Finished, tmp_path: Path) -> None:
    options = ["--runner=prism", f"--prism_location={prism}"]
    result = command("run", tiny_run.experiment, "--output", tmp_path / "run", *options)
    assert result.returncode == 0, result.stderr
    assert {line.partition(":")[0] for line in result.stderr.splitlines()} == {"tiny", ""}
    assert contents(tmp_path / "run") == contents(tiny_run.output)


def test_an_interrupted_run_leaves_no_process(prism: Path, small_run: Finished, tmp_path: Path) -> None:
    """Ctrl-C is one line, and the same command goes on."""
    output, options = tmp_path / "run", ["--runner=prism", f"--prism_location={prism}"]
    process = start(tmp_path / "log", "run", small_run.experiment, "--output", output, *options)
    wait_until(lambda: any(output.glob("attacks/*/*.parquet")), process)
    assert len(running(prism)) == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    said = (tmp_path / "log" / "stderr").read_text().splitlines()[-1]
    assert said == "megalith: interrupted; what is finished is kept, the same command goes on"
    assert running(prism) == []
    assert contents(output).items() < contents(small_run.output).items()
    run(small_run.experiment, output)
    assert contents(output) == contents(small_run.output)


def test_a_run_that_fails_leaves_no_process(prism: Path, tmp_path: Path) -> None:
    """Where a folder should be made is a file."""
    output = tmp_path / "run"
    run(written(tmp_path, tiny(attacks={})), output)
    (output / "attacks").write_text("mine")
    options = ["--runner=prism", f"--prism_location={prism}"]
    process = start(tmp_path / "log", "run", written(tmp_path, tiny()), "--output", output, *options)
    assert process.wait(120) == 1
    said = (tmp_path / "log" / "stderr").read_text().splitlines()[-1]
    assert said.startswith("megalith: stopped: ") and str(output / "attacks") in said
    assert running(prism) == []


def test_a_program_that_is_none_is_one_line(tmp_path: Path) -> None:
    experiment = written(tmp_path, tiny(attacks={}, defenses={}))
    result = command("run", experiment, "--output", tmp_path / "run", "--runner=prism", "--prism_location=/absent")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    said = result.stderr.splitlines()[-1]
    assert said.startswith("megalith: stopped: PrismRunner: ") and "/absent" in said

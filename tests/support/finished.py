"""Finished runs that many tests look at, made once for all processes of the suite: a pytest plugin."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.runs import REAL, ROOT, Finished, everything, run, small, tiny


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """`small()`, made by the command with one worker."""
    yield from _finished(tmp_path_factory, "small", json.dumps(small()))


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """The same with real models."""
    yield from _finished(tmp_path_factory, "real", json.dumps(small(models=REAL)))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """`tiny()`, made by the command with one worker."""
    yield from _finished(tmp_path_factory, "tiny", json.dumps(tiny()))


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """What `make run` makes: all CPUs are at work."""
    experiment = (ROOT / "data" / "experiments" / "quickstart.yaml").read_text()
    yield from _finished(tmp_path_factory, "quickstart", experiment, "--direct_num_workers=0")


def _finished(factory: pytest.TempPathFactory, name: str, experiment: str, *options: str) -> Iterator[Finished]:
    folder = shared(factory) / name
    file, output, summary = folder / "experiment.yaml", folder / "run", folder / "summary.txt"
    with FileLock(f"{folder}.lock"):
        if not summary.exists():
            folder.mkdir()
            file.write_text(experiment)
            summary.write_text(run(file, output, *options).stdout)
    before = everything(output)
    yield Finished(file, output, summary.read_text())
    assert everything(output) == before, "a test wrote into a shared run"


def shared(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of the suite have in common."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

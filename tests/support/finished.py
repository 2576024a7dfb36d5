"""Finished runs that many tests look at, made once: a pytest plugin, named by the modules that use it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs import ROOT, Finished, everything, run, small, tiny, written


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """`small()`, made by the command with one worker."""
    folder = tmp_path_factory.mktemp("small")
    yield from _finished(written(folder, small()), folder / "run")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """`tiny()`, made by the command with one worker."""
    folder = tmp_path_factory.mktemp("tiny")
    yield from _finished(written(folder, tiny()), folder / "run")


@pytest.fixture(scope="session")
def quickstart_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """What `make run` makes: all CPUs are at work."""
    experiment = ROOT / "data" / "experiments" / "quickstart.yaml"
    yield from _finished(experiment, tmp_path_factory.mktemp("quickstart") / "run", "--direct_num_workers=0")


def _finished(experiment: Path, output: Path, *options: str) -> Iterator[Finished]:
    finished = Finished(experiment, output, run(experiment, output, *options).stdout)
    before = everything(output)
    yield finished
    assert everything(output) == before, "a test wrote into a shared run"

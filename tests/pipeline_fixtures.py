"""Finished runs that many tests look at, made once: a pytest plugin, named by the modules that use it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_helpers import Finished, Json, everything, run, small, tiny, written


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """`small()`, made by the command with one worker."""
    yield from _finished(tmp_path_factory.mktemp("small"), small())


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """`tiny()`, made by the command with one worker."""
    yield from _finished(tmp_path_factory.mktemp("tiny"), tiny())


def _finished(folder: Path, experiment: Json) -> Iterator[Finished]:
    path = written(folder, experiment)
    finished = Finished(path, folder / "run", run(path, folder / "run").stdout)
    before = everything(finished.output)
    yield finished
    assert everything(finished.output) == before, "a test wrote into a shared run"

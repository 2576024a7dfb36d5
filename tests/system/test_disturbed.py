"""Disturbances in random order: processes are killed and interrupted, disks go away and come back, bits flip, files go,
files of others come. Afterwards the same command gives the tables of an undisturbed run, byte for byte.

The seed is printed; `MEGALITH_SEED` repeats it, and `MEGALITH_DISTURBED` says for how many seconds.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.preforked import Process, start
from tests.support.runs import Finished, contents, run, sample_files, tiny, written

pytestmark = pytest.mark.system

SECONDS = float(os.environ.get("MEGALITH_DISTURBED", "60"))
SEED = int(os.environ.get("MEGALITH_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
BUNDLES = """
import pipeline.run.execute
pipeline.run.execute.MOST_FILES = 1
from pipeline.main import main
main()
"""
"""The command, which bundles."""
KEPT = {"run.json"}
"""What a run directory cannot do without; a damaged one is refused, and stays as it is."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("undisturbed")
    pictures = folder / "pictures"
    pictures.mkdir()
    for file in sample_files()[:18]:
        shutil.copy(file, pictures / file.name)
    rows = [f"{file.name},{file.stem.rpartition('_')[2]}" for file in sample_files()[:18]]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    images = {"folder": str(pictures), "labels": str(folder / "labels.csv")}
    experiment = written(folder, tiny(chunk_size=1, images=images))
    run(experiment, folder / "run")
    yield Finished(experiment, folder / "run", "")


class Disturbances:
    """A run directory, whoever is at work in it, and what is done to them."""

    def __init__(self, undisturbed: Finished, folder: Path, seed: int) -> None:
        self.draws = random.Random(seed)  # noqa: S311 - no secret
        self.output = folder / "run"
        self.foreign: dict[Path, bytes] = {}
        self.said: list[str] = []
        self._experiment = undisturbed.experiment
        self._pictures = undisturbed.experiment.parent / "pictures"
        self._log = folder / "log"
        self._process: Process | None = None
        self._away: list[Path] = []

    def disturb(self) -> None:
        """Does any one of them."""
        kinds: list[Callable[[], None]] = [
            *(self.begin, self.stop, self.flip, self.delete, self.delete_folder),
            *(self.bring, self.copy, self.lose_pictures, self.lose_output, self.find, self.wait),
        ]
        kind = self.draws.choice(kinds)
        self.said.append(kind.__name__)
        kind()

    def begin(self) -> None:
        """The command is given, perhaps a second time."""
        if self._process is None or self._process.poll() is not None:
            self._process = self.command()
        else:
            assert self.command().wait() in {0, 1, 2, 3}

    def command(self, *more: str) -> Process:
        arguments = ("run", self._experiment, "--output", self.output, "--direct_num_workers=1", *more)
        return start(self._log, *arguments, program=BUNDLES)

    def stop(self) -> None:
        if self._process is not None:
            signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
            with suppress(ProcessLookupError):
                self._process.kill(self.draws.choice(signals))
            self._process.wait()

    def wait(self) -> None:
        time.sleep(self.draws.uniform(0, 2))

    def _files(self) -> list[Path]:
        found = sorted(path for path in self.output.rglob("*") if path.is_file() and path not in self.foreign)
        return [path for path in found if path.name not in KEPT]

    def flip(self) -> None:
        if files := self._files():
            path = self.draws.choice(files)
            with suppress(FileNotFoundError):  # by whoever is at work
                data = bytearray(path.read_bytes())
                if data:
                    place = self.draws.randrange(len(data))
                    data[place] ^= 1 << self.draws.randrange(8)
                    path.write_bytes(data)

    def delete(self) -> None:
        if files := self._files():
            self.draws.choice(files).unlink(missing_ok=True)

    def delete_folder(self) -> None:
        folders = sorted({path.parent for path in self._files()} - {self.output})
        if folders:
            folder = self.draws.choice(folders)
            if not any(folder in path.parents for path in self.foreign):
                shutil.rmtree(folder, ignore_errors=True)

    def bring(self) -> None:
        """A file of somebody else."""
        folders = sorted({self.output, *(path.parent for path in self._files())})
        names = ["notes.txt", "x.parquet", ".DS_Store", "chunk-00000 (1).parquet", "chunk-1.parquet", "Thumbs.db"]
        if self.output.is_dir() and (self.output / "run.json").exists():
            self._put(self.draws.choice(folders) / self.draws.choice(names), self.draws.randbytes(100))

    def copy(self) -> None:
        """A copy of a part beside it, or of its folder."""
        files = [path for path in self._files() if path.suffix == ".parquet"]
        if files:
            path = self.draws.choice(files)
            copies = [
                path.with_stem(f"{path.stem} (1)"),
                path.parent.with_name(f"{path.parent.name} - Copy") / path.name,
            ]
            with suppress(FileNotFoundError):
                self._put(self.draws.choice(copies), path.read_bytes())

    def _put(self, path: Path, content: bytes) -> None:
        with suppress(FileNotFoundError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if self.output not in self._away:  # What lies on a mount point is hidden by what is mounted there.
                self.foreign[path] = content

    def lose_pictures(self) -> None:
        self._lose(self._pictures)

    def lose_output(self) -> None:
        self._lose(self.output)

    def _lose(self, folder: Path) -> None:
        """As when a disk goes away that was mounted there: an empty folder stays."""
        if folder.is_dir() and folder not in self._away:
            folder.rename(folder.with_name(f"{folder.name}-away"))
            folder.mkdir()
            self._away.append(folder)

    def find(self) -> None:
        """Whatever went away comes back."""
        for folder in self._away:
            while folder.exists():  # Whoever is at work may still make folders there.
                shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}-away").rename(folder)
        self._away.clear()


def test_whatever_happens_the_same_command_gives_the_tables(undisturbed: Finished, tmp_path: Path) -> None:
    print(f"MEGALITH_SEED={SEED}")
    case = Disturbances(undisturbed, tmp_path, SEED)
    until = time.monotonic() + SECONDS
    case.begin()
    while time.monotonic() < until:
        case.disturb()
    case.find()
    case.stop()
    print(" ".join(case.said))
    last = case.command()
    if last.wait() == 3:
        last = case.command("--retry-failures", "all")
    assert last.wait() == 0, (last.stdout, last.stderr)
    made = {path: content for path, content in contents(case.output).items() if case.output / path not in case.foreign}
    assert made.keys() == contents(undisturbed.output).keys()
    assert made == contents(undisturbed.output)
    assert {path: path.read_bytes() for path in case.foreign} == case.foreign

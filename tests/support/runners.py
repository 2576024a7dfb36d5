"""Programs that tests of runners need and Python does not bring, got once and kept for all checkouts: a pytest plugin.

Java, Maven and Go must be on the machine, and their registries answer. Else the tests are skipped in one line; in CI
they fail.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

from tests.support.preforked import Process, start

GoInstall = Callable[[str], Path]
"""From a package with its version to the program."""
Begin = Callable[..., Process]

BEAM_IN_GO = "github.com/apache/beam/sdks/v2"
_KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megalith-tests"
_PATIENCE = 480
"""Seconds that a registry may take for everything it is asked for."""


def beam_in_go(program: str) -> str:
    """A program of Beam's, of the version that is installed here."""
    return f"{BEAM_IN_GO}/{program}@v{version('apache-beam')}"


def need(*programs: str) -> None:
    """Gives a test up for want of a program."""
    missing = [each for each in programs if shutil.which(each) is None]
    if missing:
        give_up(f"{' and '.join(missing)} not found on this machine")


def get(command: list[str], **environment: str) -> None:
    """Runs a command that asks a registry; gives the test up where that does not answer."""
    try:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        give_up(f"{command[0]}: no answer within {_PATIENCE} seconds")
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("go: downloading")]
        give_up(f"{command[0]}: {(said or ['failed'])[0]}")


def give_up(reason: str) -> NoReturn:
    """Skips a test for want of something, in one line; in CI it fails."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def _kept(name: str) -> Iterator[Path]:
    """A folder that outlives the tests, which no other process of theirs fills meanwhile."""
    folder = _KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        yield folder


def running(program: Path) -> list[int]:
    """Ids of the processes that a program has now."""
    return [int(each.parent.name) for each in Path("/proc").glob("[0-9]*/exe") if _is(each, program)]


def _is(link: Path, program: Path) -> bool:
    with suppress(OSError):  # It has ended meanwhile, or is nobody's business.
        return link.readlink() == program
    return False


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """The real command, which ends with the test at the latest; its output is in files of `log`."""
    begun: list[Process] = []

    def begin(*arguments: object) -> Process:
        begun.append(start(tmp_path / "log", *arguments))
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            interrupt(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        if process.poll() is None:
            process.kill()
            process.wait()


def interrupt(process: Process) -> None:
    """Ctrl-C: a terminal tells the command and everything that it started."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.fixture(scope="session")
def go_install() -> GoInstall:
    """Builds a program from the Go module proxy, unless it is there."""

    def install(package: str) -> Path:
        need("go")
        path, _, wanted = package.partition("@")
        name = path.rpartition("/")[2]
        with _kept(f"go-{name}-{wanted}") as folder:
            if not (folder / name).exists():
                get(["go", "install", package], GOBIN=str(folder))
            return folder / name

    return install


@pytest.fixture(scope="session")
def flink_jars() -> Path:
    """The folder with the jars of `flink/pom.xml`."""
    need("java", "mvn")
    pom = Path(__file__).parent / "flink" / "pom.xml"
    with _kept(f"flink-{sha256(pom.read_bytes()).hexdigest()[:16]}") as folder:
        if not (folder / pom.name).exists():
            goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}/jars"]
            get(["mvn", "-B", "-q", "-Dstyle.color=never", "-f", str(pom), *goal])
            shutil.copy(pom, folder)
        return folder / "jars"

"""Programs that tests of runners need and Python does not bring, got once and kept in pytest's cache: a pytest plugin.

Java, Maven and Go must be on the machine. Where one is not, its tests are skipped in one line; in CI they fail.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest

GoInstall = Callable[[str], Path]
"""From a package with its version to the program."""

BEAM_IN_GO = "github.com/apache/beam/sdks/v2"


def beam_in_go(program: str) -> str:
    """A program of Beam's, of the version that is installed here."""
    return f"{BEAM_IN_GO}/{program}@v{version('apache-beam')}"


def need(*programs: str) -> None:
    """Skips a test for want of a program; in CI the test fails."""
    missing = [each for each in programs if shutil.which(each) is None]
    if missing:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{' and '.join(missing)} not found on this machine")


def running(program: Path) -> list[int]:
    """Ids of the processes that a program has now."""
    return [int(each.parent.name) for each in Path("/proc").glob("[0-9]*/exe") if _is(each, program)]


def _is(link: Path, program: Path) -> bool:
    with suppress(OSError):  # It has ended meanwhile, or is nobody's business.
        return link.readlink() == program
    return False


@pytest.fixture(scope="session")
def go_install(pytestconfig: pytest.Config) -> GoInstall:
    """Builds a program from the Go module proxy, unless it is there."""

    def install(package: str) -> Path:
        need("go")
        path, _, wanted = package.partition("@")
        folder = pytestconfig.cache.mkdir(f"go-{path.rpartition('/')[2]}-{wanted}")
        program = folder / path.rpartition("/")[2]
        if not program.exists():
            _get(["go", "install", package], {"GOBIN": str(folder)})
        return program

    return install


@pytest.fixture(scope="session")
def flink_jars(pytestconfig: pytest.Config) -> Path:
    """The folder with the jars of `flink/pom.xml`."""
    need("java", "mvn")
    pom = Path(__file__).parent / "flink" / "pom.xml"
    folder = pytestconfig.cache.mkdir("flink")
    if not (folder / pom.name).exists() or (folder / pom.name).read_bytes() != pom.read_bytes():
        shutil.rmtree(folder / "jars", ignore_errors=True)
        _get(["mvn", "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={folder}/jars"])
        shutil.copy(pom, folder)
    return folder / "jars"


def _get(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""Whatever kills its process is isolated: the image is named, and the rest is done. Deaths here are real ones."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from transforms.steps.child import ChildDiedError, NoChildError, in_child
from transforms.steps.crash_guard import FOLDER, MOST, _recorded, death_rows, guarded
from transforms.storage.store import Store

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
IMAGES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file with a line for each time that work was begun."""
    return tmp_path / "log"


def work(log: Path, fatal: str, together: int, some: Sequence[int]) -> list[str]:
    """Names the images; kills its process where it meets one of these, or so many at once."""
    names = [IMAGES[number] for number in some]
    with log.open("a") as file:
        file.write(f"{''.join(names)} {os.getpid()}\n")
    if set(names) & set(fatal) or len(names) >= together:
        os.kill(os.getpid(), signal.SIGKILL)
    return names


def deadly(log: Path, fatal: str = "", together: int = len(IMAGES) + 1) -> "partial[list[str]]":
    return partial(work, log, fatal, together)


def begun(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines()]


def dies(store: Store, unit: str = "u") -> None:
    """A process dies in the middle of a unit."""
    child = os.fork()
    if child == 0:
        with _recorded(store, unit):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def records(store: Store) -> int:
    return len(store.paths(FOLDER))


# --- where nothing has died


def test_where_nothing_has_died_all_is_done_here_at_once(store: Store, log: Path) -> None:
    assert guarded(store, "u", IMAGES, deadly(log)) == [([0, 1, 2, 3, 4], IMAGES)]
    assert log.read_text() == f"abcde {os.getpid()}\n"
    assert records(store) == 0


def test_the_record_is_there_before_the_work(store: Store) -> None:
    assert guarded(store, "u", IMAGES, lambda some: records(store)) == [([0, 1, 2, 3, 4], 1)]


def test_an_error_is_not_a_death(store: Store, log: Path) -> None:
    def fails(numbers: Sequence[int]) -> list[str]:
        raise OSError("the disk is full")

    for _ in range(2 * MOST):
        with pytest.raises(OSError, match="full"):
            guarded(store, "u", IMAGES, fails)
    assert records(store) == 0


# --- where a process has died


@pytest.mark.parametrize("deaths", [1, 2 * MOST])
def test_deaths_by_others_hands_leave_nobody_out(deaths: int, store: Store, log: Path) -> None:
    """As where machines are taken away in the middle of the same unit, as often as one likes."""
    for _ in range(deaths):
        dies(store)
    assert guarded(store, "u", IMAGES, deadly(log)) == [([0, 1, 2, 3, 4], IMAGES)]
    (line,) = log.read_text().splitlines()
    assert line.split()[0] == "abcde" and int(line.split()[1]) != os.getpid()
    assert records(store) == deaths  # which the end of the run removes


def test_other_units_are_done_here(store: Store, log: Path) -> None:
    dies(store, "u")
    guarded(store, "v", IMAGES, deadly(log))
    assert log.read_text() == f"abcde {os.getpid()}\n"


@pytest.mark.parametrize("fatal", ["a", "c", "e", "ad", "abcde"])
def test_images_that_kill_alone_are_left_out(fatal: str, store: Store, log: Path) -> None:
    dies(store)
    groups = guarded(store, "u", IMAGES, deadly(log, fatal))
    assert [name for _, names in groups for name in names] == [name for name in IMAGES if name not in fatal]
    assert all(names == [IMAGES[number] for number in kept] for kept, names in groups)
    assert {name: begun(log).count(name) for name in fatal} == dict.fromkeys(fatal, MOST)
    assert [some for some in begun(log) if some not in fatal and begun(log).count(some) > 1] == []


def test_what_kills_only_together_is_done_in_groups(store: Store, log: Path) -> None:
    """Each alone is well, all at once are too much for the machine: nobody is left out."""
    dies(store)
    assert guarded(store, "u", IMAGES, deadly(log, together=3)) == [
        ([0, 1], ["a", "b"]),
        ([2], ["c"]),
        ([3, 4], ["d", "e"]),
    ]


def crowded(log: Path, some: Sequence[int]) -> list[int]:
    """Dies twice of each image; a third child lives."""
    with log.open("a") as file:
        file.write(f"{some[0]}\n")
    if len(some) > 1 or log.read_text().splitlines().count(str(some[0])) % MOST:
        os.kill(os.getpid(), signal.SIGKILL)
    return list(some)


def test_an_image_that_lives_once_is_kept(store: Store, log: Path) -> None:
    dies(store)
    groups = guarded(store, "u", IMAGES[:1], partial(crowded, log))
    assert (groups, len(log.read_text().splitlines())) == ([([0], [0])], MOST)


def test_an_image_that_seems_to_kill_is_tried_with_nothing_beside_it(store: Store, tmp_path: Path) -> None:
    """Else the memory that a neighbour takes would be put down to it."""
    dies(store, "suspect")
    inside, together = tmp_path / "inside", []

    def neighbour(_: Sequence[int]) -> None:
        with inside.open("a") as file:
            file.write("x")
        time.sleep(0.02)
        together.append(len(IMAGES))
        inside.write_text("")

    def neighbours() -> None:
        while suspect.is_alive():
            guarded(store, "v", IMAGES, neighbour)

    suspect = threading.Thread(target=guarded, args=(store, "suspect", IMAGES[:1], partial(alone, tmp_path)))
    suspect.start()
    neighbours()
    suspect.join()
    assert (tmp_path / "seen").read_text() == "0"
    assert together, "the others need not wait for long"


def alone(folder: Path, some: Sequence[int]) -> None:
    """Notes how many neighbours there were meanwhile."""
    time.sleep(0.2)
    inside = folder / "inside"
    (folder / "seen").write_text(str(len(inside.read_text()) if inside.exists() else 0))


def fails_in_a_child(parent: int, some: Sequence[int]) -> str:
    if os.getpid() != parent:
        raise MemoryError("two at once do not fit")
    return "here"


def test_what_fails_in_a_child_is_done_here(store: Store) -> None:
    """As on an accelerator that holds the models once and not twice."""
    dies(store)
    assert guarded(store, "u", IMAGES, partial(fails_in_a_child, os.getpid())) == [([0, 1, 2, 3, 4], "here")]


def test_rows_of_failures_say_so() -> None:
    (row,) = death_rows(["a", "b", "c"], [0, 2])
    assert (row["image_id"], row["attempt"]) == ("b", MOST)
    assert "processes died" in row["message"] and "\n" not in row["message"]


# --- the child


def conditions() -> tuple[int, int, str]:
    return os.getpid(), torch.get_num_threads(), Path("/proc/self/oom_score_adj").read_text().strip()


def test_a_child_works_as_a_worker_does_and_dies_first() -> None:
    pid, threads, score = in_child(conditions)
    assert pid != os.getpid()
    assert (threads, score) == (1, "1000")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(0)


def starve() -> bytes:
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    return bytes(2**34)


def test_a_death_is_told_from_an_error() -> None:
    for death in (segfault, leave):
        with pytest.raises(ChildDiedError):
            in_child(death)
    with pytest.raises(NoChildError, match="MemoryError"):
        in_child(starve)


class Unreadable:
    """Whose pickle nobody can read."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("x",)

    def __call__(self) -> None:
        """Never happens."""


def test_a_child_that_cannot_begin_says_nothing_about_the_work() -> None:
    with pytest.raises(NoChildError, match="ValueError"):
        in_child(Unreadable())


def sleeps(pid: Path) -> None:
    pid.write_text(str(os.getpid()))
    time.sleep(600)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_child_ends_with_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    """Also where the parent cannot say goodbye; and the parent does not wait for it."""
    pid = tmp_path / "pid"
    program = (
        "import functools, pathlib, sys\n"
        "from tests.steps.test_crash_guard import sleeps\n"
        "from transforms.steps.child import in_child\n"
        "in_child(functools.partial(sleeps, pathlib.Path(sys.argv[1])))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, pid], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (pid.exists() and pid.read_text()):
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    parent.send_signal(number)
    parent.wait(60)
    while Path(f"/proc/{pid.read_text()}").exists():
        assert time.monotonic() < deadline, "it goes on alone"
        time.sleep(0.01)

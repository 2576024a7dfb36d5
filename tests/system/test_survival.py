"""Nothing that was computed is lost, whatever happens. docs/faults.md lists what is tried, and what comes of it."""

import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from pipeline.run.execute import _machine_failure
from tests.support.preforked import Process, start, wait_until
from tests.support.runners import give_up
from tests.support.runs import (
    Finished,
    contents,
    invoke,
    rows,
    run,
    stamps,
    tiny,
    written,
)

pytestmark = pytest.mark.system

KILLS = int(os.environ.get("MEGALITH_KILLS", "20"))
"""`MEGALITH_KILLS=50` searches for longer."""
MOUNT, UMOUNT = shutil.which("mount") or "", shutil.which("umount") or ""
PART = "attacks/attack=mi/chunk-00000.parquet"


def wait_for(output: Path, pattern: str, process: Process, count: int = 1) -> None:
    """Returns as soon as there are so many files of such a name, while the process still runs."""
    wait_until(lambda: len(list(output.glob(pattern))) >= count, process)


def unfinished(output: Path) -> list[str]:
    """Files that are neither parts nor the run's own few."""
    found = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    return sorted(found - stamps(output).keys() - {"run.json", "manifest.json", ".lock"})


def last_line(process: Process) -> str:
    assert "Traceback" not in process.stderr
    return process.stderr.rstrip().rpartition("\n")[2].rpartition("\r")[2]


# --- killed


def test_killed_at_random_moments_the_tables_are_the_same(tiny_run: Finished, tmp_path: Path) -> None:
    """Killed as spot machines are: when a worker has begun something, or some files have been made."""
    moments = random.Random()  # noqa: S311 - others each time
    finished = [tmp_path / "run-0"]
    killed = 0
    while killed < KILLS:
        output = finished[-1]
        process = start(tmp_path / "log", "run", tiny_run.experiment, "--output", output)
        pattern, more = moments.choice([("attempts/*", 1), ("**/*.parquet", moments.randint(1, 6))])
        before = len(list(output.glob(pattern)))
        while process.poll() is None and len(list(output.glob(pattern))) < before + more:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        with suppress(ProcessLookupError):
            process.kill(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if process.wait() == 0:
            finished.append(tmp_path / f"run-{len(finished)}")
    process = start(tmp_path / "log", "run", tiny_run.experiment, "--output", finished[-1])
    assert process.wait() == 0, process.stderr
    for output in finished:
        assert contents(output) == contents(tiny_run.output)
        assert unfinished(output) == []


# --- what kills

KILLER = '''
import os, signal

def defense(canvases, *, level: int):
    """Kills the process that looks at a picture whose first pixel is of that level."""
    if (canvases[:, :, 0, 0].sum(dim=1) == level).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return canvases

def attack(surrogates, batch, ball, *, level: int = 0):
    """Does so as well."""
    defense(batch.canvases, level=level)
    return batch.clean
'''
POINTS = """
[megalith.defenses]
killer = killer:defense
[megalith.attacks]
killer = killer:attack
"""


@pytest.fixture(scope="module")
def killing(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A path for Python with a user's package of an attack and a defence that kill."""
    package = tmp_path_factory.mktemp("package")
    (package / "killer-0.1.dist-info").mkdir()
    (package / "killer.py").write_text(KILLER)
    (package / "killer-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: killer\nVersion: 0.1\n")
    (package / "killer-0.1.dist-info" / "entry_points.txt").write_text(POINTS)
    return os.pathsep.join([str(package), os.environ["PYTHONPATH"]])


def until_none_is_killed(
    log: Path, *arguments: object, environment: dict[str, str], program: str = ""
) -> tuple[list[int], str]:
    """The same command again and again; its exit codes, and what the last one said."""
    codes: list[int] = []
    while not codes or codes[-1] == -signal.SIGKILL:
        assert len(codes) < 10
        process = start(log, *arguments, program=program, environment=environment)
        codes.append(process.wait())
    return codes, process.stderr


def test_an_image_that_kills_its_process_is_isolated(killing: str, tiny_run: Finished, tmp_path: Path) -> None:
    """Behind a plug-in's defence that kills: there is a row of failures, and the rest is as ever."""
    output = tiny_run.copy(tmp_path / "run")
    before = contents(output)
    level, doomed = first_pixel_of_a_clean_canvas(output)
    experiment = written(tmp_path, tiny(defenses={"jpeg": {"quality": [75]}, "killer": {"level": level}}))
    arguments = ["run", experiment, "--output", output, "--direct_num_workers=1"]
    codes, said = until_none_is_killed(tmp_path / "log", *arguments, environment={"PYTHONPATH": killing})
    assert codes[-1] == 3, said
    failures = rows(output, "failures")
    assert {row["image_id"] for row in failures} == {doomed}
    assert {(row["stage"], row["defense"], row["error_type"]) for row in failures} == {
        ("predict", f"killer:level={level}", "ProcessDied")
    }
    assert codes == [-signal.SIGKILL] * len(failures) + [3]  # one worker has one chunk at a time to die of
    behind = [row for row in rows(output, "predictions") if row["defense"] == f"killer:level={level}"]
    assert len(behind) + len(failures) == 3 * 3  # images, attacks and clean
    after = contents(output)
    assert before.items() <= after.items()
    assert unfinished(output) == []


def test_an_image_that_kills_whoever_attacks_it_is_isolated(killing: str, tiny_run: Finished, tmp_path: Path) -> None:
    """The rest of its chunk is attacked."""
    output = tiny_run.copy(tmp_path / "run")
    before = contents(output)
    level, doomed = first_pixel_of_a_clean_canvas(output)
    killer = {"recipe": "killer", "surrogates": ["lite0"], "eps": "4/255", "level": level}
    experiment = written(tmp_path, tiny(attacks={"killer": killer}, defenses={}))
    arguments = ["run", experiment, "--output", output]
    codes, said = until_none_is_killed(tmp_path / "log", *arguments, environment={"PYTHONPATH": killing})
    assert codes == [-signal.SIGKILL, 3], said
    (failure,) = rows(output, "failures")
    assert (failure["stage"], failure["attack"], failure["error_type"]) == ("attack", "killer", "ProcessDied")
    assert failure["image_id"] == doomed
    others = {row["image_id"] for row in rows(output, "images")} - {doomed}
    for table in ("attacks", "canvases", "predictions"):
        assert {row["image_id"] for row in rows(output, table) if row["attack"] == "killer"} == others
    assert before.items() <= contents(output).items()
    assert unfinished(output) == []


DECODER = """
import hashlib, os, signal
import transforms.steps.load
import transforms.storage.images

def killer(data, canvas, decode=transforms.storage.images.decode):
    if hashlib.sha256(data).hexdigest() == os.environ["DOOMED"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data, canvas)

transforms.storage.images.decode = transforms.steps.load.decode = killer
"""


def test_an_image_that_kills_whoever_decodes_it_is_isolated(tiny_run: Finished, tmp_path: Path) -> None:
    """After one death in the check of clean accuracy, which goes on without it, and one while it is loaded."""
    doomed = rows(tiny_run.output, "images")[1]
    output, experiment = tmp_path / "run", written(tmp_path, tiny(attacks={}, defenses={}))
    arguments = ["run", experiment, "--output", output]
    (tmp_path / "killing.py").write_text(DECODER)
    (tmp_path / "sitecustomize.py").write_text("import killing")  # which every Python imports, children too
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    environment = {"DOOMED": doomed["bytes_sha256"], "PYTHONPATH": path}
    program = "import killing; from pipeline.main import main; main()"
    codes, said = until_none_is_killed(tmp_path / "log", *arguments, program=program, environment=environment)
    assert codes == [-signal.SIGKILL] * 2 + [3], said
    (failure,) = rows(output, "failures")
    assert (failure["stage"], failure["image_id"], failure["error_type"]) == ("load", doomed["image_id"], "ProcessDied")
    assert json.loads((output / "run.json").read_text())["proofs"]["lite0"][1] == 2
    assert len(rows(output, "predictions")) == 2
    assert unfinished(output) == []


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            "Traceback ...\n  raise x\ntorch.AcceleratorError: CUDA error: an illegal memory access was encountered\n"
            "CUDA kernel errors might be asynchronously reported at some other API call\n"
            "For debugging consider passing CUDA_LAUNCH_BLOCKING=1 [while running 'Attack']",
            "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        ),
        ("CUDA error: unspecified launch failure\nFor debugging ...", "CUDA error: unspecified launch failure"),
        ("Traceback ...\nOSError: [Errno 28] No space left", "OSError: [Errno 28] No space left"),
        ("Traceback ...\nOSError: gone\n\nDuring handling ...\nTraceback ...\nKeyError: 'x'", None),
    ],
)
def test_what_the_machine_said_is_told_from_a_fault_of_ours(told: str, said: str | None) -> None:
    """As workers report it, and as it comes from this process."""
    assert _machine_failure(RuntimeError(told)) == said


def first_pixel_of_a_clean_canvas(output: Path) -> tuple[int, str]:
    """The sum over its channels, and the image's id."""
    row = next(row for row in rows(output, "canvases") if row["attack"] == "none")
    return sum(Image.open(io.BytesIO(row["canvas"])).getpixel((0, 0))), row["image_id"]  # type: ignore[arg-type]


# --- stopped on purpose


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "terminated")],
)
def test_stopped_on_purpose_it_says_so_and_blames_nobody(
    number: int, code: int, word: str, workers: int, small_run: Finished, tmp_path: Path
) -> None:
    """Ctrl-C, a machine that is taken away or a terminal that is closed: as often as one likes."""
    output, alone = tmp_path / "run", f"--direct_num_workers={workers}"
    for _ in range(3):
        begun = len(list(output.glob("attempts/*")))
        process = start(tmp_path / "log", "run", small_run.experiment, "--output", output, alone)
        wait_for(output, "attempts/*", process, begun + 1)
        process.kill(number)
        assert process.wait() == code
        assert last_line(process) == f"megalith: {word}; what is finished is kept, the same command goes on"
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    process = start(tmp_path / "log", "run", small_run.experiment, "--output", output)
    assert process.wait() == 0
    assert contents(output) == contents(small_run.output)


# --- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with room for 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=600k", "none", str(folder)]
    if not MOUNT or subprocess.run([MOUNT, *options], capture_output=True, check=False).returncode:
        give_up("this user may not mount a filesystem")
    yield folder
    subprocess.run([UMOUNT, str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_with_more_room(
    small_disk: Path, tiny_run: Finished, tmp_path: Path
) -> None:
    output = small_disk / "run"
    process = start(tmp_path / "log", "run", tiny_run.experiment, "--output", output)
    assert process.wait() == 1
    assert os.strerror(errno.ENOSPC) in last_line(process)
    before = stamps(output)
    assert 0 < len(before) < len(stamps(tiny_run.output))
    subprocess.run([MOUNT, "-o", "remount,size=10m", str(small_disk)], check=True)
    process = start(tmp_path / "log", "run", tiny_run.experiment, "--output", output)
    assert process.wait() == 0, process.stderr
    after = stamps(output)
    assert before == {path: after[path] for path in before}
    assert contents(output) == contents(tiny_run.output)


@pytest.mark.parametrize("gone", ["removed", "moved"])
def test_a_run_directory_that_goes_in_the_middle(gone: str, tiny_run: Finished, tmp_path: Path) -> None:
    """The run says so and begins no new one under the old name; the same command goes on where it is now."""
    output, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    process = start(tmp_path / "log", "run", tiny_run.experiment, "--output", output)
    wait_for(output, "attacks/*/*.parquet", process)
    output.rename(elsewhere)
    if gone == "removed":
        shutil.rmtree(elsewhere)
    assert process.wait() == 1
    assert last_line(process).startswith("megalith: stopped: ") and str(output) in last_line(process)
    assert not output.exists()
    now = elsewhere if gone == "moved" else output
    before = stamps(elsewhere)
    process = start(tmp_path / "log", "run", tiny_run.experiment, "--output", now)
    assert process.wait() == 0, process.stderr
    assert contents(now) == contents(tiny_run.output)
    assert before.items() <= stamps(now).items()


@pytest.mark.parametrize("table", ["canvases", "predictions"])
def test_a_tables_folder_may_be_on_another_disk(table: str, tiny_run: Finished, tmp_path: Path) -> None:
    """Through a link, made before or after the run; a link that leads in a circle is passed over."""
    output, disk = tmp_path / "run", tmp_path / "disk"
    output.mkdir()
    disk.mkdir()
    (output / table).symlink_to(disk)
    (disk / "me").symlink_to(".")
    run(tiny_run.experiment, output)
    before = stamps(output), stamps(disk)
    assert min(map(len, before)) > 0
    run(tiny_run.experiment, output)
    assert (stamps(output), stamps(disk)) == before
    assert invoke("verify", output, "--sample", "0").exit_code == 0
    (disk / "me").unlink()
    (output / table).unlink()
    disk.rename(output / table)
    assert contents(output) == contents(tiny_run.output)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, -5], ids=["rows", "middle", "footer", "end"])
def test_a_flipped_bit_is_found_and_the_part_made_again(place: float, tiny_run: Finished, tmp_path: Path) -> None:
    """`plan` says what is to be done, and `run` does it."""
    output = tiny_run.copy(tmp_path / "run")
    damaged = bytearray((output / PART).read_bytes())
    damaged[int(place * len(damaged)) if place > 0 else int(place)] ^= 1
    (output / PART).write_bytes(damaged)
    planned = invoke("plan", tiny_run.experiment, "--output", output)
    assert "attack" in planned.stdout and "about 0 forward" not in planned.stdout
    run(tiny_run.experiment, output)
    assert contents(output) == contents(tiny_run.output)


def test_a_part_of_another_chunk_is_found_by_verify(tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    shutil.copy(output / PART, (output / PART).with_name("chunk-00001.parquet"))
    result = invoke("verify", output, "--sample", "0")
    assert result.exit_code == 3
    assert "attacks: 2 rows instead of 1" in result.stdout


# --- two at once


def test_two_runs_at_once_do_no_damage(tiny_run: Finished, tmp_path: Path) -> None:
    output = tmp_path / "run"
    first = start(tmp_path / "first", "run", tiny_run.experiment, "--output", output)
    wait_for(output, "images/*.parquet", first)
    second = start(tmp_path / "second", "run", tiny_run.experiment, "--output", output)
    assert second.wait() == 2
    assert last_line(second) == f"megalith: --output: another run is at work in {output}; wait for it, or stop it"
    assert first.wait() == 0
    assert contents(output) == contents(tiny_run.output)

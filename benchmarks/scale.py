"""Many images through the real graph with a stub model: memory, overhead, files, queries.

    python -m benchmarks.scale FOLDER [IMAGES [DEFENSES [FILES]]]

FOLDER, which must not exist, gets the images and the run directory; IMAGES is 50000 unless given, DEFENSES is 1. FILES
is how many files a run may make one by one, 50000 unless given; one that makes more bundles them. Everything is done by
the `megalith` command, in processes of its own; one worker does the run.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from benchmarks.stub import SIDE
from pipeline.run.execute import MOST_FILES
from transforms.data.classes import class_wnid
from transforms.models.sources.source import CLASSES

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 16
IMAGES = 50_000
_COMMAND = """
import sys
import pipeline.run.execute
pipeline.run.execute.MOST_FILES = int(sys.argv.pop(1))
from pipeline.main import main
main()
"""
_OFTEN, _SELDOM = 0.1, 0.5
"""Seconds between two looks at a process, and at one whose files are counted."""
_QUERIES = {
    "count": "select count(*) from predictions",
    "accuracy": "select attack, defense, avg(correct::int) from predictions group by all order by all",
    "flips": "select a.predicted, count(*) as images from predictions a join predictions b using (image_id, defense) "
    "where a.attack = 'none' and b.attack = 'fgsm' and a.predicted <> b.predicted group by all "
    "order by images desc, a.predicted limit 5",
}


@dataclass
class Measured:
    """A command that was run to its end.

    Attributes:
        seconds: from its start to its end.
        cpu: seconds that it computed, on all CPUs.
        looks: seconds since the start, resident memory in MiB, files in the watched folder.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    looks: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """Most resident memory, MiB."""
        return max(memory for _, memory, _ in self.looks)


def main() -> None:
    """Makes images, runs, and prints what was measured."""
    folder = Path(sys.argv[1]).resolve()
    given = [int(each) for each in sys.argv[2:]]
    images, defenses, files = (*given, *(IMAGES, 1, MOST_FILES)[len(given) :])
    make_images(folder / "images", images)
    write_experiment(folder, defenses)
    install_stub(folder / "packages")
    output = folder / "run"
    named = (str(folder / "scale.yaml"), "--output", str(output))
    plan, run = ("plan", *named), ("run", *named, "--direct_num_workers=1")
    print(f"{images} images in {-(-images // CHUNK)} chunks, {os.cpu_count()} CPUs")
    show("plan, nothing there", measure(folder, plan))
    ran = measure(folder, run, watched=output, files=files)
    show("run", ran)
    show_run(ran, output, -(-images // CHUNK))
    show("plan, all there", measure(folder, plan))
    show("run, all there", measure(folder, run))
    for name, query in _QUERIES.items():
        show(f"sql, {name}", measure(folder, ("sql", str(output), query)))


def make_images(folder: Path, images: int) -> None:
    """Small JPEGs in class folders, each cut from one of the 20 sample images at a place of its own."""
    samples = [Image.open(path).convert("RGB").resize((96, 96)) for path in _sample_files()]
    for number in range(images):
        left, top = number // 20 % 56, number // 1120 % 56
        cut = samples[number % 20].crop((left, top, left + 40, top + 40))
        path = folder / class_wnid(number % CLASSES) / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cut.save(path, quality=90)


def _sample_files() -> list[Path]:
    spec = find_spec("foolbox")
    assert spec is not None and spec.origin is not None
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


def write_experiment(folder: Path, defenses: int) -> None:
    """Two attacks and a defence at least, so that each kind of part is made."""
    section = {
        "name": "scale",
        "chunk_size": CHUNK,
        "images": {"folder": str(folder / "images")},
        "canvas": {"resize": SIDE, "crop": SIDE},
        "models": {"stub": "stub"},
        "attacks": {name: {"recipe": name, "surrogates": ["stub"], "eps": "8/255"} for name in ("fgsm", "pgd")},
        "defenses": {"jpeg": {"quality": [*range(75, 75 - defenses, -1)]}},
    }
    (folder / "scale.yaml").write_text(json.dumps(section))


def install_stub(folder: Path) -> None:
    """A distribution that offers `stub`, for processes that have `folder` in their path."""
    info = folder / "stub-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stub\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[megalith.models]\nstub = benchmarks.stub:stub\n")


def measure(folder: Path, arguments: Sequence[str], watched: Path | None = None, files: int = MOST_FILES) -> Measured:
    """Runs `megalith` to its end and looks at it now and then; what it says goes to `folder`/log."""
    path = os.pathsep.join([str(folder / "packages"), str(ROOT)])
    measured, started, before = Measured(), time.monotonic(), _cpu_of_children()
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _COMMAND, str(files), *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=log,
        )
        while process.poll() is None:
            with suppress(OSError):  # it has just ended
                measured.looks.append((time.monotonic() - started, _resident(process.pid), _count(watched)))
            with suppress(subprocess.TimeoutExpired):
                process.wait(_OFTEN if watched is None else _SELDOM)
    measured.seconds = time.monotonic() - started
    measured.cpu = _cpu_of_children() - before
    assert process.returncode in {0, 3}, f"{arguments}: see {folder / 'log'}"
    return measured


def _cpu_of_children() -> float:
    """Seconds that processes computed which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident(pid: int) -> float:
    """Resident memory of a process on Linux, MiB."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE") / 2**20


def _count(folder: Path | None) -> int:
    return 0 if folder is None else sum(len(names) for _, _, names in os.walk(folder))


def show(what: str, measured: Measured) -> None:
    """One line about a command."""
    print(f"{what}: {measured.seconds:.1f} s, {measured.cpu:.1f} CPU s, peak {measured.peak:.0f} MiB", flush=True)


def show_run(ran: Measured, output: Path, chunks: int) -> None:
    """What is to be known of a run besides."""
    seconds = json.loads((output / "run.json").read_text())["costs"][0]["seconds"]
    print(f"  per chunk: {1000 * seconds / chunks:.1f} ms, all of loading, attacking, predicting, writing")
    tenths = [ran.looks[len(ran.looks) * tenth // 10] for tenth in range(1, 10)]
    print("  memory over time:", ", ".join(f"{at:.0f} s {memory:.0f} MiB" for at, memory, _ in tenths))
    print(f"  files: {max(files for *_, files in ran.looks)} at most, {_count(output)} at the end", flush=True)


if __name__ == "__main__":
    main()

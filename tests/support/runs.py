"""What the tests of the pipeline share: small experiments, the command in and out of process, tables read by hand."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from pipeline.config.experiment import Experiment
from pipeline.main import app
from transforms.models.conditions import Conditions, usual_micro_batch

Json = dict[str, Any]
Row = dict[str, Any]

EMPTY_RUN: Json = {
    "experiment": {},
    "definitions": {
        **{"seed": 0, "chunk_size": 3, "canvas": {"resize": 256, "crop": 224}, "all_probabilities": False},
        **{"images": {"count": 0, "sha256": ""}, "models": {}, "attacks": {}},
    },
    "versions": {},
    "proofs": {},
    "costs": [],
}
"""A run.json that says nothing."""

ROOT = Path(__file__).resolve().parents[2]
IMAGENET_SAMPLE = ROOT.parent / "shared" / "imagenet-sample"
MEGALITH = Path(sys.executable).parent / "megalith"

needs_imagenet_sample = pytest.mark.skipif(not IMAGENET_SAMPLE.is_dir(), reason="../shared/imagenet-sample is absent")

TABLES = ("images", "attacks", "canvases", "predictions", "failures")


def sample_files() -> list[Path]:
    """The 20 labelled validation images inside foolbox's wheel, in the order of their names."""
    spec = find_spec("foolbox")
    assert spec is not None and spec.origin is not None
    files = sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))
    assert len(files) == 20
    return files


def label_of(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


COARSE = {"lite0": "coarse0", "lite1": "coarse1"}
"""Models of `tests.support.coarse`, under the names that experiments give to real ones."""
REAL = {"lite0": "packaged/efficientnet-lite0", "lite1": "packaged/efficientnet-lite1"}


def small(**changes: Any) -> Json:
    """Seven images in three chunks, the last a short one; two models, three kinds of attack, two of defence."""
    return {
        "name": "small",
        "seed": 7,
        "chunk_size": 3,
        "images": {"samples": "foolbox", "select": [file.stem for file in sample_files()[:7]]},
        "models": COARSE,
        "attacks": {
            "fgsm": {"recipe": "fgsm", "surrogates": ["lite0"], "eps": "4/255"},
            "both": {
                "recipe": "mi-fgsm",
                "surrogates": ["lite0", "lite1"],
                "target": "megalith",
                "eps": "4/255",
                "steps": 2,
            },
            "pgd-l2": {"recipe": "pgd", "surrogates": ["lite0"], "norm": "l2", "eps": 3, "steps": 2, "restarts": 2},
        },
        "defenses": {"lowpass": {"cutoff": [0.7]}, "jpeg": {"quality": [75]}},
        **changes,
    }


def tiny(**changes: Any) -> Json:
    """Three images in two chunks, one target; the least that has a random start, a target class and a defence."""
    return {
        "name": "tiny",
        "seed": 3,
        "chunk_size": 2,
        "images": {"samples": "foolbox", "select": [file.stem for file in sample_files()[:3]]},
        "models": COARSE,
        "attacks": {
            "pgd": {"recipe": "pgd", "surrogates": ["lite0"], "eps": "4/255", "steps": 1},
            "mi": {"recipe": "mi-fgsm", "surrogates": ["lite0"], "target": 649, "eps": "4/255", "steps": 2},
        },
        "targets": ["lite0"],
        "defenses": {"jpeg": {"quality": [75]}},
        **changes,
    }


def written(folder: Path, experiment: Json, name: str = "experiment.yaml") -> Path:
    """Writes an experiment; JSON is YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(experiment, indent=1))
    return path


def conditions_of(experiment: Experiment) -> Conditions:
    """Under which a run of an experiment asks models, on a CPU."""
    view = experiment.canvas.spec.field_of_view
    return Conditions(experiment.seed, view, usual_micro_batch(torch.device("cpu"), experiment.chunk_size), "cpu")


# --- the command


def invoke(*arguments: object) -> Result:
    """The command, in this process."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(experiment: Path, output: Path, *options: str, code: int = 0) -> Result:
    """`megalith run` in this process, which must end with `code`."""
    result = invoke("run", experiment, "--output", output, "--direct_num_workers=1", *options)
    assert result.exit_code == code, result.output
    return result


def left(message: str, code: int) -> None:
    """Instead of `pipeline.cli.process.leave`, which ends the process."""
    print(" ".join(message.split()), file=sys.stderr)
    raise typer.Exit(code)


def complaint(result: Result | subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a command that found its input wrong."""
    code = result.exit_code if isinstance(result, Result) else result.returncode
    assert code == 2, result
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("megalith: ")
    return lines[0]


def refused(experiment: Path, output: Path, *options: str) -> str:
    """`megalith run` in this process must refuse; returns its one line."""
    return complaint(invoke("run", experiment, "--output", output, *options))


def command(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The real command, to its end."""
    line = [str(MEGALITH), *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


# --- what is on the disk


@dataclass(frozen=True)
class Stamp:
    """Changes whenever a file is written again, even with the same bytes."""

    inode: int
    mtime_ns: int


def stamps(folder: Path) -> dict[str, Stamp]:
    """All published parts, by path relative to the folder."""
    return {
        path.relative_to(folder).as_posix(): Stamp(path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*.parquet"))
    }


def forbid_listing(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """No folder with this in its path can be read. Nobody keeps root from that, so the system's answer is made up."""
    scandir = os.scandir

    def forbidden(path: str) -> Any:
        if part in os.fspath(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)


def contents(folder: Path) -> dict[str, bytes]:
    """All published parts and their bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def everything(folder: Path) -> dict[str, tuple[Stamp, bytes]]:
    """All files, published or not, run.json too."""
    return {
        path.relative_to(folder).as_posix(): (Stamp(path.stat().st_ino, path.stat().st_mtime_ns), path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def count_by_table(paths: Iterable[str]) -> Counter[str]:
    """How many parts there are of each table; parts of `failures`, which may be empty, are left out."""
    return Counter(table for path in paths if (table := path.partition("/")[0]) != "failures")


def rows(folder: Path, table: str) -> list[Row]:
    """A table read part by part, with the partition columns taken from the paths by hand, in a stable order."""
    found: list[Row] = []
    for path in sorted((folder / table).rglob("*.parquet")):
        keys = dict(part.split("=", 1) for part in path.relative_to(folder / table).parts[:-1])
        partitions = {key: unquote(value) for key, value in keys.items()}
        # Not read_table: it would add partition columns of its own.
        found += [{**row, **partitions} for row in pq.ParquetFile(path).read().to_pylist()]
    return in_order(found)


def in_order(found: list[Row]) -> list[Row]:
    keys = ("attack", "stage", "model", "view", "defense", "image_id", "uri")
    return sorted(found, key=lambda row: [str(row.get(key)) for key in keys])


def costs(output: Path) -> list[Json]:
    """As run.json keeps them, one for each run that computed anything."""
    found: list[Json] = json.loads((output / "run.json").read_text())["costs"]
    return found


def what_was_counted(output: Path) -> dict[str, int]:
    """By the last run that computed anything; every counter but those of time."""
    cost = costs(output)[-1]
    return {**cost["counts"], **{name: each["count"] for name, each in cost["steps"].items()}}


# --- runs that many tests look at: fixtures in finished.py


@dataclass(frozen=True)
class Finished:
    """A finished run. Nobody writes into it."""

    experiment: Path
    output: Path
    summary: str

    def copy(self, folder: Path) -> Path:
        """A copy of the run directory, to be written into."""
        shutil.copytree(self.output, folder)
        return folder


def is_root() -> bool:
    return os.geteuid() == 0

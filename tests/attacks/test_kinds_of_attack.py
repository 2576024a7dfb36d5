"""Every kind of attack through the whole pipeline: what the rows of `attacks` say, and that it is so."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.config.experiment import load_experiment
from pipeline.images.manifest import list_images
from pipeline.results.tables import Run, open_run
from tests.support.attacks import as_is, bent, some_canvases
from tests.support.runs import ROOT, Row, conditions_of, refused, rows, run, tiny, written
from transforms.attacks.engine import attack_batch
from transforms.attacks.spec import AttackSpec
from transforms.data.chunks import UNLABELED, ImageRef, Material, Work, make_chunks, one_of_each_class
from transforms.data.outcomes import Attacked
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import NO_DEFENSE
from transforms.errors import InputError
from transforms.models.conditions import Conditions
from transforms.models.pin import pin
from transforms.models.sources.registry import model_source
from transforms.rows.attacks import attack_rows
from transforms.rows.canvases import canvas_sha256
from transforms.rows.parts import CLEAN
from transforms.steps.attack import AttackChunk
from transforms.steps.context import StepContext
from transforms.steps.held_models import HeldModels
from transforms.steps.load import load_chunk
from transforms.steps.stored import publish
from transforms.storage.images import read_batch
from transforms.storage.store import Store
from transforms.storage.stored_canvases import CanvasRef, read_canvases

pytestmark = pytest.mark.system

LITE0 = {"surrogates": ["lite0"], "eps": "2/255"}
ATTACKS: dict[str, dict[str, Any]] = {
    "combined": {**LITE0, "recipe": "mi-di-ti-lf", "steps": 2, "eot": 2, "keep": "best"},
    "admix": {**LITE0, "recipe": "admix", "steps": 1, "mixed_images": 2, "scales": 2},
    "ensemble": {**LITE0, "recipe": "cwa", "surrogates": ["lite0", "lite1"], "steps": 1, "fuse": "losses"},
    "drawn": {**LITE0, "recipe": "bim", "surrogates": ["lite0", "lite1"], "steps": 3, "fuse": "drawn"},
    "known": {**LITE0, "recipe": "bim", "steps": 2, "defense": "lowpass:cutoff=0.5"},
    "fixations": {**LITE0, "recipe": "fgsm", "view": "saccades"},
    "half": {**LITE0, "recipe": "bim", "steps": 2, "precision": "bf16", "objective": "margin"},
    "l1": {**LITE0, "recipe": "bim", "norm": "l1", "eps": 100, "steps": 2},
    "ddn": {**LITE0, "recipe": "ddn", "norm": "l2", "eps": 1, "steps": 8},
    "square": {**LITE0, "recipe": "square", "queries": 3},
    "random moves": {"surrogates": ["lite0"], "recipe": "spatial-random", "tries": 2},
    "flow": {"surrogates": ["lite0"], "recipe": "stadv", "steps": 2},
    "cascade": {**LITE0, "recipe": "autoattack", "eps": "4/255", "steps": 3, "queries": 3},
    "library": {**LITE0, "recipe": "torchattacks/PGD", "steps": 2},
    "minimal library": {**LITE0, "recipe": "foolbox/L2DeepFoolAttack", "norm": "l2", "eps": 1, "steps": 3},
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    attacks = {name.replace(" ", "-"): attack for name, attack in ATTACKS.items()}
    run(written(folder, tiny(name="kinds", attacks=attacks, defenses={})), folder / "run")
    return folder / "run"


def made(kinds: Path, attack: str) -> list[Row]:
    return [row for row in rows(kinds, "attacks") if row["attack"] == attack.replace(" ", "-")]


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_kind_keeps_its_budget_and_counts_its_passes(attack: str, kinds: Path) -> None:
    found = made(kinds, attack)
    assert len(found) == 3
    assert rows(kinds, "failures") == []
    pixels = {
        (row["attack"], row["image_id"]): np.asarray(Image.open(io.BytesIO(row["canvas"]))).astype(int)
        for row in rows(kinds, "canvases")
    }
    for row in found:
        change = pixels[row["attack"], row["image_id"]] - pixels["none", row["image_id"]]
        norms = {"linf": np.abs(change).max(), "l1": np.abs(change).sum(), "l2": np.sqrt((change**2).sum())}
        assert row["norm"] is None or norms[row["norm"]] <= row["eps"] * 255 * (1 + 1e-9)
        assert row["linf"] == norms["linf"] / 255
        assert row["l1"] == pytest.approx(norms["l1"] / 255)
        assert row["forwards"] > 0
        assert (row["backwards"] > 0) == (ATTACKS[attack]["recipe"] not in ("square", "spatial-random"))


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        ("combined", (2 * 2 + 2, 2 * 2)),  # two draws in each of two steps, and two looks at what to keep
        ("admix", (4, 4)),  # two pictures, two scales
        ("ensemble", (4, 4)),  # both together, then each
        ("drawn", (3, 3)),  # one of two in each step
        ("known", (2, 2)),
        ("fixations", (5, 5)),
        ("library", (2, 2)),
    ],
)
def test_passes_counted_by_hand(attack: str, passes: tuple[int, int], kinds: Path) -> None:
    assert {(row["forwards"], row["backwards"]) for row in made(kinds, attack)} == {passes}


def test_what_the_columns_say_of_each_kind(kinds: Path) -> None:
    def say(attack: str, *columns: str) -> set[tuple[Any, ...]]:
        return {tuple(row[column] for column in columns) for row in made(kinds, attack)}

    assert say("ensemble", "fuse", "objective") == {("losses", "cross-entropy")}
    assert say("drawn", "fuse") == {("drawn",)}
    assert say("known", "fuse", "through", "view") == {(None, "lowpass:cutoff=0.5", "center")}
    assert say("fixations", "through", "view") == {("none", "saccades")}
    assert say("half", "objective") == {("margin",)}
    assert say("ddn", "objective") == {(None,)}
    assert say("combined", "minimal_norm") == {(None,)}
    assert say("cascade", "steps") == {(None,)}
    assert say("library", "objective", "minimal_norm", "steps") == {(None, None, 2)}
    assert all(row["out_of_band"] is None for row in made(kinds, "known"))
    assert all(0 < row["out_of_band"] < 0.2 for row in made(kinds, "combined"))
    for attack in ("ddn", "minimal library"):
        assert all(row["minimal_norm"] >= 0 for row in made(kinds, attack))


def test_an_attack_through_a_defense_is_judged_through_it(kinds: Path) -> None:
    """`adversarial_confidence` is what the surrogate says of the stored canvas behind the defence that it knows."""
    folder = kinds.parent
    defended = tiny(name="kinds", attacks={"known": ATTACKS["known"]}, defenses={"lowpass": {"cutoff": [0.5]}})
    run(written(folder, defended, "defended.yaml"), kinds)
    answers = {
        row["image_id"]: (row["predicted"], row["confidence"])
        for row in rows(kinds, "predictions")
        if (row["attack"], row["defense"]) == ("known", "lowpass:cutoff=0.5")
    }
    for row in made(kinds, "known"):
        predicted, confidence = answers[row["image_id"]]
        assert row["adversarial_predicted"] == predicted
        assert row["adversarial_confidence"] == pytest.approx(confidence, rel=1e-5)


# --- pictures to mix in


def test_admix_mixes_in_the_experiments_pictures_whatever_the_chunk(kinds: Path) -> None:
    """The last chunk has a single image, which alone would find no other class; the pool is drawn from all."""
    experiment = load_experiment(str(kinds.parent / "experiment.yaml"))
    refs = list_images(experiment.images, experiment.seed).refs
    pool = read_batch(one_of_each_class(refs, experiment.seed), experiment.canvas.spec)
    last = make_chunks(refs, experiment.chunk_size)[-1]
    alone = read_batch(last.refs, experiment.canvas.spec)
    assert len(last.refs) == 1 and len(set(pool.labels)) == len(pool.labels) == 3
    (spec,) = [each for each in experiment.specs if each.name == "admix"]
    surrogate = [model_source("coarse0").load(torch.device("cpu"))]
    found = attack_batch(spec, surrogate, alone, conditions_of(experiment), pool)
    (stored,) = [row for row in made(kinds, "admix") if row["image_id"] == last.refs[0].image_id]
    assert stored["canvas_sha256"] == canvas_sha256(found.canvases[0])
    without = attack_batch(spec, surrogate, alone, conditions_of(experiment))
    assert not np.array_equal(found.canvases, without.canvases)


KILLER = """
import os, signal
import transforms.steps.attack

def reading(some, canvas, read=transforms.steps.attack.read_batch):
    if any(ref.image_id == os.environ["DOOMED"] for ref in some):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(some, canvas)

transforms.steps.attack.read_batch = reading
"""
"""Imported by every Python that finds it as `sitecustomize`."""


def attack_with_a_pool(folder: str, experiment: str) -> None:
    """Attacks the first two images with `admix`, which mixes in others."""
    loaded = load_experiment(experiment)
    canvas, store = loaded.canvas.spec, Store(folder)
    refs = list_images(loaded.images, loaded.seed).refs
    chunk = make_chunks(refs, 2)[0]
    context = StepContext(store, HeldModels({"lite0": pin("coarse0")}, "cpu"), canvas, conditions_of(loaded))
    publish(store, load_chunk(context, chunk))
    (spec,) = [each for each in loaded.specs if each.name == "admix"]
    worker = AttackChunk(context, [spec], Material(one_of_each_class(refs, loaded.seed)))
    assert list(worker.process(Work(chunk, frozenset(["admix"]))))


def test_a_picture_that_kills_is_not_mixed_in(kinds: Path, tmp_path: Path) -> None:
    """Each worker reads the pool; one dies of a picture, and then the others are mixed in."""
    experiment = load_experiment(str(kinds.parent / "experiment.yaml"))
    refs = list_images(experiment.images, experiment.seed).refs
    doomed, *rest = one_of_each_class(refs, experiment.seed)
    (tmp_path / "sitecustomize.py").write_text(KILLER)
    program = "import sys; from tests.attacks.test_kinds_of_attack import attack_with_a_pool as a; a(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(tmp_path / "run"), str(kinds.parent / "experiment.yaml")]
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": path, "DOOMED": doomed.image_id}
    codes = [subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode for _ in range(2)]
    assert codes == [-signal.SIGKILL, 0]
    chunk, store = make_chunks(refs, 2)[0], Store(str(tmp_path / "run"))
    stored, clean = (read_canvases(store, CanvasRef(chunk, name)) for name in ("admix", CLEAN))
    (spec,) = [each for each in experiment.specs if each.name == "admix"]
    surrogate = [model_source("coarse0").load(torch.device("cpu"))]
    pool = read_batch(rest, experiment.canvas.spec)
    found = attack_batch(spec, surrogate, clean, conditions_of(experiment), pool)
    assert np.array_equal(stored.pixels, found.canvases)


def test_the_pool_is_of_different_classes_and_the_seeds() -> None:
    refs = [ImageRef(f"{label}/{number}", "", label) for label in range(30) for number in range(5)]
    refs += [ImageRef("broken", "", 7, problem="empty"), ImageRef("nobody knows", "", UNLABELED)]
    drawn = one_of_each_class(refs, seed=0)
    assert len(drawn) == len({ref.label for ref in drawn}) == 16
    assert drawn == one_of_each_class(refs[::-1], seed=0) != one_of_each_class(refs, seed=1)
    assert {"broken", "nobody knows"}.isdisjoint(
        ref.image_id for seed in range(50) for ref in one_of_each_class(refs, seed)
    )
    assert len(one_of_each_class(refs[:5], seed=0)) == 1


def test_admix_without_another_class_is_refused(tmp_path: Path) -> None:
    one = tiny(images={"samples": "foolbox", "limit": 1}, attacks={"a": {**LITE0, "recipe": "admix"}})
    said = refused(written(tmp_path, one), tmp_path / "run")
    assert "attacks.a: admix mixes in other classes, and there is one class only" in said


# --- a cascade


def attacked(recipe: str, order: list[int], **parameters: Any) -> Attacked:
    """Of eight canvases that a toy network takes for what they are, those in `order`, in micro-batches of three."""
    network, canvases = as_is(bent(5)), some_canvases(8, 5)
    with torch.no_grad():
        labels = network(canvases.float() / 255).argmax(dim=1)
    names = tuple(f"image {number}" for number in order)
    batch = CanvasBatch(names, tuple(labels[order].tolist()), canvases[order].numpy())
    spec = AttackSpec(
        "a", recipe, tuple(parameters.items()), ("toy",), "logits", "center", NO_DEFENSE, "fp32", "l2", 0.12, None
    )
    return attack_batch(spec, [network], batch, Conditions(0, 1.0, 3))


def fallen(found: Attacked) -> np.ndarray:
    return found.adversarial.argmax(axis=1) != found.clean.argmax(axis=1)


def test_a_cascade_goes_on_with_the_images_that_stand() -> None:
    """Its first stage is APGD on cross-entropy; an image that falls to it has the same row as under APGD alone."""
    alone = attacked("apgd-ce", list(range(8)), steps=4)
    cascade = attacked("autoattack", list(range(8)), steps=4, queries=20)
    first = fallen(alone)
    assert 0 < first.sum() < 8
    for name in ("canvases", "forwards", "backwards"):
        assert np.array_equal(getattr(cascade, name)[first], getattr(alone, name)[first])
    for name in ("forwards", "backwards"):
        assert (getattr(cascade, name)[~first] > getattr(alone, name)[~first]).all()
    assert (fallen(cascade) >= first).all()
    assert np.isnan(cascade.norms).all()  # a stage of it looks for the smallest perturbation, but the cascade does not


def test_a_cascades_rows_do_not_depend_on_companions() -> None:
    whole, some = attacked("autoattack", list(range(8)), steps=3, queries=20), [6, 1, 3, 4]
    again = attacked("autoattack", some, steps=3, queries=20)
    for name in ("canvases", "forwards", "backwards", "adversarial"):
        assert np.array_equal(getattr(again, name), getattr(whole, name)[some]), name


# --- answers that are not numbers


class Mute(nn.Module):
    """Answers no number for dark canvases."""

    def forward(self, windows: Tensor) -> Tensor:
        brightness = windows.mean(dim=(1, 2, 3))
        logits = torch.stack([brightness, 1 - brightness], dim=1)
        return torch.where(brightness[:, None] < 0.3, torch.nan, logits)


@pytest.mark.parametrize(("recipe", "parameters"), [("square", {"queries": 2}), ("fgsm", {})])
def test_an_image_without_an_answer_fails(recipe: str, parameters: dict[str, int]) -> None:
    pixels = torch.full((2, 3, 12, 12), 180, dtype=torch.uint8)
    pixels[1] = 20
    batch = CanvasBatch(("bright", "dark"), (0, 0), pixels.numpy())
    spec = AttackSpec(
        "a", recipe, tuple(parameters.items()), ("toy",), "logits", "center", NO_DEFENSE, "fp32", "linf", 0.1, None
    )
    found = attack_batch(spec, [as_is(Mute())], batch, Conditions(0, 1.0, 2))
    assert found.finite.tolist() == [True, False]
    (row,) = attack_rows(spec, 0, batch, found)
    assert row["image_id"] == "bright"


class Steep(nn.Module):
    """Compares two halves of a picture by their roots, whose slope is infinite where a value is black."""

    def forward(self, windows: Tensor) -> Tensor:
        roots = windows.flatten(1).sqrt()
        half = roots.shape[1] // 2
        return torch.stack([roots[:, :half].sum(dim=1), roots[:, half:].sum(dim=1)], dim=1)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_an_image_that_reached_its_goal_is_kept_whatever_its_gradients_became(keep: str) -> None:
    """The first step fools the network, and makes a value black: there is no second gradient."""
    pixels = np.full((3, 3, 12, 12), 100, dtype=np.uint8)
    pixels[:, 0, 0, :2] = 1, 2  # in the half that the attack makes darker
    pixels[1].reshape(-1)[216:] = 0  # far from the boundary
    batch = CanvasBatch(("near", "far", "of the target class"), (0, 0, 1), pixels)
    parameters = (("steps", 3), ("keep", keep), ("alpha", 2 / 255))
    spec = AttackSpec("a", "bim", parameters, ("toy",), "logits", "center", NO_DEFENSE, "fp32", "linf", 0.1, 1)
    found = attack_batch(spec, [as_is(Steep())], batch, Conditions(0, 1.0, 3))
    assert found.adversarial.argmax(axis=1).tolist() == [1, 0, 1]
    assert found.finite.tolist() == [True, False, True]


# --- success curves


def test_a_success_curve_comes_from_the_rows(kinds: Path) -> None:
    opened: Run = open_run(str(kinds))
    norms = [row["minimal_norm"] for row in made(kinds, "ddn") if row["clean_predicted"] == row["label"]]
    budgets = [0.0, min(norms), max(norms) + 1]
    curve = opened.curve("ddn", budgets)
    assert list(curve["eps"]) == budgets
    assert list(curve["successes"]) == [sum(norm <= budget for norm in norms) for budget in budgets]
    assert set(curve["of"]) == {len(norms)}
    assert ((curve["low"] <= curve["rate"]) & (curve["rate"] <= curve["high"])).all()
    with pytest.raises(InputError, match="'library' is not a minimal-norm attack"):
        opened.curve("library", [1.0])

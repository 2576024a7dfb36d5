"""Every kind of attack through the whole pipeline: what the rows of `attacks` say, and that it is so."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_helpers import Row, rows, run, tiny, written

from pipeline.experiment import load_experiment
from pipeline.results import Run, open_run
from transforms.attack import Attacked, attack_batch
from transforms.canvases import CanvasBatch
from transforms.errors import InputError
from transforms.models.classifier import Classifier

LITE0 = {"surrogates": ["lite0"], "eps": "2/255"}
ATTACKS: dict[str, dict[str, Any]] = {
    "combined": {**LITE0, "recipe": "mi-di-ti-lf", "steps": 2, "eot": 2, "keep": "best"},
    "admix": {**LITE0, "recipe": "admix", "steps": 1, "mixed_images": 2, "scales": 2},
    "ensemble": {**LITE0, "recipe": "cwa", "surrogates": ["lite0", "lite1"], "steps": 1, "fuse": "losses"},
    "known": {**LITE0, "recipe": "bim", "steps": 2, "defense": "lowpass:cutoff=0.5"},
    "crops": {**LITE0, "recipe": "fgsm", "view": "ten-crop"},
    "half": {**LITE0, "recipe": "bim", "steps": 2, "precision": "bf16", "objective": "margin"},
    "l1": {**LITE0, "recipe": "bim", "norm": "l1", "eps": 100, "steps": 2},
    "ddn": {**LITE0, "recipe": "ddn", "norm": "l2", "eps": 1, "steps": 8},
    "square": {**LITE0, "recipe": "square", "queries": 3},
    "cascade": {**LITE0, "recipe": "autoattack", "eps": "1/255", "steps": 2, "queries": 3},
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
        assert norms[row["norm"]] <= row["eps"] * 255 * (1 + 1e-9)
        assert row["linf"] == norms["linf"] / 255
        assert row["l1"] == pytest.approx(norms["l1"] / 255)
        if ATTACKS[attack]["recipe"] != "square":
            assert row["forwards"] > 0 and row["backwards"] > 0


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        ("combined", (2 * 2 + 2, 2 * 2)),  # two draws in each of two steps, and two looks at what to keep
        ("admix", (4, 4)),  # two pictures, two scales
        ("ensemble", (4, 4)),  # both together, then each
        ("known", (2, 2)),
        ("crops", (10, 10)),
        ("library", (2, 2)),
    ],
)
def test_passes_counted_by_hand(attack: str, passes: tuple[int, int], kinds: Path) -> None:
    assert {(row["forwards"], row["backwards"]) for row in made(kinds, attack)} == {passes}


def test_what_the_columns_say_of_each_kind(kinds: Path) -> None:
    def say(attack: str, *columns: str) -> set[tuple[Any, ...]]:
        return {tuple(row[column] for column in columns) for row in made(kinds, attack)}

    assert say("ensemble", "fuse", "objective") == {("losses", "cross-entropy")}
    assert say("known", "fuse", "through", "view") == {(None, "lowpass:cutoff=0.5", "center")}
    assert say("crops", "through", "view") == {("none", "ten-crop")}
    assert say("half", "objective") == {("margin",)}
    assert say("ddn", "objective") == {(None,)}
    assert say("combined", "minimal_norm") == {(None,)}
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


# --- a cascade


def attacked(recipe: dict[str, Any], batch: CanvasBatch, lite0: Classifier, tmp_path: Path) -> Attacked:
    (spec,) = load_experiment(str(written(tmp_path, tiny(attacks={"a": {**LITE0, **recipe}})))).specs
    return attack_batch(spec, [lite0], 224 / 256, batch, seed=0, size=4)


@pytest.fixture(scope="module")
def eight(samples: Any) -> CanvasBatch:
    names = tuple(f"image {number}" for number in range(8))
    return CanvasBatch(names, tuple(samples.labels[:8].tolist()), samples.canvases[:8].numpy())


def test_a_cascade_goes_on_with_the_images_that_stand(eight: CanvasBatch, lite0: Classifier, tmp_path: Path) -> None:
    """Its first stage is APGD on cross-entropy; an image that falls to it has the same row as under APGD alone."""
    budget = {"eps": 0.15, "norm": "l2"}
    alone = attacked({"recipe": "apgd-ce", "steps": 3, **budget}, eight, lite0, tmp_path)
    cascade = attacked({"recipe": "autoattack", "steps": 3, "queries": 4, **budget}, eight, lite0, tmp_path)
    labels = torch.tensor(eight.labels)
    fallen = alone.adversarial.argmax(dim=1) != labels
    assert 0 < fallen.sum() < 8
    assert torch.equal(cascade.canvases[fallen], alone.canvases[fallen])
    assert torch.equal(cascade.forwards[fallen], alone.forwards[fallen])
    assert (cascade.forwards[~fallen] > alone.forwards[~fallen]).all()
    still = cascade.adversarial.argmax(dim=1) == labels
    assert not (still & fallen).any()


def test_a_cascades_rows_do_not_depend_on_companions(eight: CanvasBatch, lite0: Classifier, tmp_path: Path) -> None:
    recipe = {"recipe": "autoattack", "steps": 2, "queries": 4, "eps": 0.15, "norm": "l2"}
    whole = attacked(recipe, eight, lite0, tmp_path)
    some = [6, 1, 3]
    part = CanvasBatch(
        tuple(eight.image_ids[item] for item in some),
        tuple(eight.labels[item] for item in some),
        eight.pixels[some],
    )
    again = attacked(recipe, part, lite0, tmp_path)
    for name in ("canvases", "forwards", "backwards", "adversarial"):
        assert torch.equal(getattr(again, name), getattr(whole, name)[some]), name


# --- success curves


def test_a_success_curve_comes_from_the_rows(kinds: Path) -> None:
    opened: Run = open_run(str(kinds))
    norms = [row["minimal_norm"] for row in made(kinds, "ddn") if row["clean_predicted"] == row["label"]]
    budgets = [0.0, sorted(norms)[0], max(norms) + 1]
    curve = opened.curve("ddn", budgets)
    assert list(curve["eps"]) == budgets
    assert list(curve["successes"]) == [sum(norm <= budget for norm in norms) for budget in budgets]
    assert set(curve["of"]) == {len(norms)}
    assert ((curve["low"] <= curve["rate"]) & (curve["rate"] <= curve["high"])).all()
    with pytest.raises(InputError, match="'library' is not a minimal-norm attack"):
        opened.curve("library", [1.0])

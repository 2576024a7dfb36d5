"""The story it started from: a king penguin that a network takes for a megalith, and its neighbours do not."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.runs import IMAGENET_SAMPLE, ROOT, Row, invoke, needs_imagenet_sample, rows, run

PENGUIN, MEGALITH = 145, 649

pytestmark = [needs_imagenet_sample, pytest.mark.system]


def finished(name: str, output: Path) -> Path:
    """An experiment of data/experiments as it is, but for where its pictures are."""
    run(ROOT / "data" / "experiments" / name, output, f"--set=images.folder={IMAGENET_SAMPLE}")
    return output


@pytest.fixture(scope="module")
def penguin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished("penguin.yaml", tmp_path_factory.mktemp("penguin") / "run")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished("penguin-questions.yaml", tmp_path_factory.mktemp("questions") / "run")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished("penguin-ten-crop.yaml", tmp_path_factory.mktemp("crops") / "run")


def decoded(row: Row) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["canvas"]))).astype(int)


def look(output: Path, attack: str, model: str, defense: str = "none", view: str = "center") -> Row:
    keys = {"attack": attack, "model": model, "defense": defense, "view": view}
    (found,) = [row for row in rows(output, "predictions") if keys.items() <= row.items()]
    return found


def test_clean_it_is_a_penguin(penguin: Path) -> None:
    assert [look(penguin, "none", model)["predicted"] for model in ("lite0", "lite1", "lite2")] == [PENGUIN] * 3


def test_the_surrogate_takes_it_for_a_megalith(penguin: Path) -> None:
    seen = look(penguin, "megalith", "lite0")
    assert (seen["predicted"], seen["predicted_name"]) == (MEGALITH, "megalith")
    assert seen["confidence"] >= 0.99
    assert seen["target"] == MEGALITH and seen["target_confidence"] == seen["confidence"]
    assert not seen["correct"]


def test_its_neighbours_are_not_fooled(penguin: Path) -> None:
    assert [look(penguin, "megalith", model)["predicted"] for model in ("lite1", "lite2")] == [PENGUIN] * 2


def test_the_lowpass_brings_the_penguin_back(penguin: Path) -> None:
    answers = {
        cutoff: look(penguin, "megalith", "lite0", f"lowpass:cutoff={cutoff}")["predicted"]
        for cutoff in (1.0, 0.7, 0.6, 0.5)
    }
    assert answers[1.0] == MEGALITH  # which keeps everything
    assert PENGUIN in (answers[0.7], answers[0.6], answers[0.5])


def test_no_eye_sees_it(penguin: Path) -> None:
    """The budget in whole grey levels, measured on what is stored."""
    pixels = {row["attack"]: decoded(row) for row in rows(penguin, "canvases")}
    difference = np.abs(pixels["megalith"] - pixels["none"])
    assert difference.max() == 4
    (attack,) = rows(penguin, "attacks")
    assert attack["linf"] == 4 / 255
    assert attack["success"] and attack["steps"] == 20


def test_sql_shows_the_table_of_the_origin(penguin: Path) -> None:
    """Architecture, prediction's name, index, confidence."""
    query = (
        "select model as architecture, predicted_name as prediction, predicted as index, confidence "
        "from predictions where attack = 'megalith' and defense = 'none' order by model"
    )
    result = invoke("sql", penguin, query, "--format", "csv")
    answer = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["architecture"], row["prediction"], row["index"]) for row in answer] == [
        ("lite0", "megalith", "649"),
        ("lite1", "king penguin", "145"),
        ("lite2", "king penguin", "145"),
    ]
    assert float(answer[0]["confidence"]) >= 0.99


def test_one_picture_fools_two_networks_at_once(questions: Path) -> None:
    """At 2/255, and not a third that it was not made for."""
    for model in ("lite0", "lite1"):
        assert look(questions, "both", model)["target_confidence"] >= 0.99
    assert look(questions, "both", "lite2")["predicted"] == PENGUIN
    (attack,) = [row for row in rows(questions, "attacks") if row["attack"] == "both"]
    assert (attack["surrogates"], attack["fuse"], attack["linf"]) == (["lite0", "lite1"], "logits", 2 / 255)
    assert (attack["forwards"], attack["backwards"]) == (40, 40)


def test_alexnets_inference_is_fooled_by_an_attack_that_knows_it(crops: Path) -> None:
    """Ten crops averaged: made for the centre alone it convinces about half of them, made through all ten, all."""
    assert look(crops, "center", "lite0")["target_confidence"] >= 0.99
    assert 0.3 < look(crops, "center", "lite0", view="ten-crop")["target_confidence"] < 0.7
    assert look(crops, "ten-crop", "lite0", view="ten-crop")["target_confidence"] >= 0.99


LOW = ("low", "low-coefficients", "low-dct", "low-dct-coefficients")


def test_there_are_low_frequency_adversarial_features(questions: Path) -> None:
    """A low-pass of half the band brings the plain attack back to a penguin, and none of those within the band."""
    for attack in ("plain", *LOW):
        assert look(questions, attack, "lite0")["target_confidence"] >= 0.99
    assert look(questions, "plain", "lite0", "lowpass:cutoff=0.5")["predicted"] == PENGUIN
    for attack in LOW:
        assert look(questions, attack, "lite0", "lowpass:cutoff=0.5")["target_confidence"] >= 0.99


@pytest.mark.parametrize("attack", ["low", "low-coefficients"])
def test_the_energy_that_rounding_puts_outside_the_band(attack: str, questions: Path) -> None:
    """Against NumPy's transform of what is stored."""
    pixels = {row["attack"]: decoded(row) for row in rows(questions, "canvases")}
    power = np.abs(np.fft.fft2(pixels[attack] - pixels["none"], axes=(0, 1))) ** 2
    frequency = np.abs(np.fft.fftfreq(224))
    outside = (frequency[:, None] > 0.25) | (frequency > 0.25)
    leaked = {row["attack"]: row["out_of_band"] for row in rows(questions, "attacks")}
    assert leaked[attack] == pytest.approx(power[outside].sum() / power.sum(), rel=1e-6)
    assert 0 < leaked[attack] < 0.01
    assert leaked["plain"] is None

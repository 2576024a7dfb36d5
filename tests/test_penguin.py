"""The story it started from: a king penguin that a network takes for a megalith, and its neighbours do not."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline_helpers import ROOT, Row, invoke, needs_imagenet_sample, rows, run

PENGUIN, MEGALITH = 145, 649

pytestmark = needs_imagenet_sample


@pytest.fixture(scope="module")
def penguin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/experiments/penguin.yaml as it is; its paths are relative to the repository."""
    output = tmp_path_factory.mktemp("penguin") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        run(Path("data/experiments/penguin.yaml"), output)
        yield output


def look(output: Path, attack: str, model: str, defense: str = "none") -> Row:
    keys = {"attack": attack, "model": model, "defense": defense}
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
    pixels = {
        row["attack"]: np.asarray(Image.open(io.BytesIO(row["canvas"]))).astype(int)
        for row in rows(penguin, "canvases")
    }
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

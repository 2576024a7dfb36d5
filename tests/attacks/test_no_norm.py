"""Attacks whose budget is no norm, through the whole pipeline: rows, verify, page, leaderboard, and refusals."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.config.experiment import load_experiment
from pipeline.results.leaderboards import leaderboard
from pipeline.results.tables import open_run
from pipeline.verify.tables import picture
from tests.support.runs import Row, contents, invoke, refused, rows, run, tiny, written
from transforms.attacks.drivers.spatial import turned
from transforms.rows.distances import distances
from transforms.rows.tables import rows_table
from transforms.storage.seal import sealed

pytestmark = pytest.mark.system

LITE0 = {"surrogates": ["lite0"]}
GRID = {**LITE0, "recipe": "spatial", "max_rotation": 20, "num_rotations": 3, "num_translations": 3}
FLOW = {**LITE0, "recipe": "stadv", "steps": 5}
ATTACKS: dict[str, dict[str, Any]] = {
    "grid": GRID,
    "drawn": {**LITE0, "recipe": "spatial-random", "tries": 4, "target": 649},
    "flow": FLOW,
    "far": {**FLOW, "max_flow": 4.5, "target": 649, "precision": "bf16"},
    "fgsm": {**LITE0, "recipe": "fgsm", "eps": "4/255"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("no norm")
    run(written(folder, tiny(attacks=ATTACKS)), folder / "run")
    return folder / "run"


def of(made: Path, attack: str) -> list[Row]:
    found = [row for row in rows(made, "attacks") if row["attack"] == attack]
    assert len(found) == 3
    return found


def test_rows_tell_the_budget_and_what_was_done(made: Path) -> None:
    said = {(row["attack"], row["norm"], row["eps"], row["bounds"]) for row in rows(made, "attacks")}
    assert said == {
        ("grid", None, None, "max_rotation=20,max_translation=24"),
        ("drawn", None, None, "max_rotation=30,max_translation=24"),
        ("flow", None, None, "max_flow=2"),
        ("far", None, None, "max_flow=4.5"),
        ("fgsm", "linf", 4 / 255, None),
    }
    for row in rows(made, "attacks"):
        moved = [row["rotation"], row["shift_x"], row["shift_y"]]
        assert all((each is None) == (row["attack"] not in ("grid", "drawn")) for each in moved)
        assert (row["flow"] is None) == (row["attack"] not in ("flow", "far"))
    assert all(row["rotation"] in (-20, 0, 20) and row["shift_x"] in (-24, 0, 24) for row in of(made, "grid"))
    assert all(row["flow"] <= 2 for row in of(made, "flow"))
    assert {(row["forwards"], row["backwards"]) for row in of(made, "grid")} == {(27, 0)}
    assert rows(made, "failures") == []


def test_a_stored_canvas_is_the_clean_one_moved_as_its_row_says(made: Path) -> None:
    canvases = {(row["attack"], row["image_id"]): picture(row["canvas"], 224) for row in rows(made, "canvases")}
    for row in [*of(made, "grid"), *of(made, "drawn")]:
        clean, stored = canvases["none", row["image_id"]], canvases[row["attack"], row["image_id"]]
        assert clean is not None and stored is not None
        move = torch.tensor([[row["rotation"], row["shift_x"], row["shift_y"]]])
        again = turned(torch.from_numpy(clean)[None].float(), move)[0].round().numpy()
        assert np.array_equal(again, stored)
        assert row["l2"] == pytest.approx(distances(clean, stored)["l2"])  # measured, as facts


def test_verify_finds_nothing_wrong(made: Path, tmp_path: Path) -> None:
    result = invoke("verify", made)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("attack", "column", "value", "bound"),
    [
        ("grid", "rotation", -20.01, "max_rotation"),
        ("drawn", "shift_x", 24.01, "max_translation"),
        ("drawn", "shift_y", float("nan"), "max_translation"),
        ("flow", "flow", 2.01, "max_flow"),
        ("far", "flow", None, "max_flow"),
    ],
)
def test_verify_finds_a_move_beyond_its_bounds(
    made: Path, attack: str, column: str, value: float | None, bound: str, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path / "run")
    path = tmp_path / "run" / "attacks" / f"attack={attack}" / "chunk-00000.parquet"
    edited = pq.ParquetFile(path).read().to_pylist()
    edited[0][column] = value
    path.write_bytes(sealed(rows_table("attacks", edited)))
    result = invoke("verify", tmp_path / "run", "--sample", 0)
    said = f"{edited[0]['image_id']} after {attack}: {column} is missing, or beyond {bound} of bounds"
    assert result.exit_code == 3 and said in " ".join(result.stdout.split())
    assert result.stdout.count("of bounds") == 1


def test_the_page_says_that_there_is_no_norm(made: Path, tmp_path: Path) -> None:
    assert invoke("report", made, "--output", tmp_path / "page.html").exit_code == 0
    page = (tmp_path / "page.html").read_text()
    assert "no norm, max_rotation=20,max_translation=24" in page
    assert "1 of 1 attacks stay within ε on every image; 4 more cannot be told." in page


def test_a_leaderboard_does_not_mix_budgets(made: Path) -> None:
    budgets = leaderboard([open_run(str(made))], allow_unlike=True).notes[-1]
    assert "linf 4/255" in budgets and "max_flow=2, " in budgets and "max_rotation=20,max_translation=24" in budgets
    alone = leaderboard([open_run(str(made))], {"attack": ["flow"]})
    assert "max_flow=2" in alone.title


def test_a_run_that_was_broken_off_ends_alike(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "run")
    for table in ("attacks", "canvases"):
        for path in (tmp_path / "run" / table).rglob("*.parquet"):
            if "attack=flow" in str(path) or "attack=drawn" in str(path):
                path.unlink()
    run(written(tmp_path, tiny(attacks=ATTACKS)), tmp_path / "run")
    again, before = (contents(folder) for folder in (tmp_path / "run", made))
    assert {path: again[path] for path in again if path.endswith(".parquet")} == {
        path: before[path] for path in before if path.endswith(".parquet")
    }


def test_another_budget_under_an_old_name_is_refused(made: Path, tmp_path: Path) -> None:
    changed = {**ATTACKS, "flow": {**FLOW, "max_flow": 3}}
    said = refused(written(tmp_path, tiny(attacks=changed)), made)
    assert "attacks.flow.max_flow" in said and '"2"' in said and '"3"' in said


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ({**GRID, "eps": "4/255"}, "eps: spatial bounds max_rotation and max_translation; leave eps out"),
        ({**FLOW, "norm": "l2"}, "norm: stadv bounds max_flow; leave norm out"),
        ({**LITE0, "recipe": "pgd"}, "eps: is missing"),
        ({**LITE0, "recipe": "pgd", "eps": None}, "eps: is missing, such as eps: 4/255"),
        ({**GRID, "precision": "bf16"}, "precision: bf16 has no effect on spatial, which takes no gradients"),
        ({**FLOW, "epsilon": "4/255"}, "epsilon: stadv bounds max_flow; leave epsilon out"),
        ({**GRID, "steps": 3}, "spatial has no parameter 'steps'; it has max_rotation, "),
        ({**FLOW, "max_flow": 224}, "max_flow: 224 bounds nothing on a canvas of 224 pixels; 2 is usual"),
        ({**GRID, "max_translation": 224}, "max_translation: 224 moves a canvas of 224 pixels out of sight"),
    ],
)
def test_keys_are_refused_in_one_line(attack: dict[str, Any], message: str, tmp_path: Path) -> None:
    said = refused(written(tmp_path, tiny(attacks={"a": attack})), tmp_path / "run")
    assert message in said


@pytest.mark.parametrize(
    ("attack", "warned"),
    [
        ({**FLOW, "max_flow": "4/255"}, "max_flow: 4/255 pixels across the canvas move hardly anything"),
        ({**GRID, "max_translation": 0.1}, "max_translation: 1/10 pixels across the canvas move hardly anything"),
        ({**GRID, "max_rotation": 0, "max_translation": 1}, None),
        ({**FLOW, "max_flow": 0.5}, None),
    ],
)
def test_a_budget_that_moves_hardly_anything_is_said(
    attack: dict[str, Any], warned: str | None, tmp_path: Path
) -> None:
    planned = invoke("plan", written(tmp_path, tiny(attacks={"a": attack})), "--output", tmp_path / "run")
    assert planned.exit_code == 0
    assert planned.stderr == ("" if warned is None else f"warning: attacks.a.{warned}\n")


def test_an_experiment_as_written_is_read_again(tmp_path: Path) -> None:
    """run.json holds every key; norm and eps as null."""
    experiment = load_experiment(str(written(tmp_path, tiny(attacks=ATTACKS))))
    dumped = experiment.model_dump(mode="json")
    assert (dumped["attacks"]["flow"]["norm"], dumped["attacks"]["flow"]["eps"]) == (None, None)
    assert type(experiment).model_validate(dumped).specs == experiment.specs

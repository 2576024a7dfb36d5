"""Targets of single images through the pipeline: what each kind wants; resumed, in shares, and extended."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.results import open_run
from tests.support.runs import COARSE, Json, contents, invoke, label_of, refused, rows, run, sample_files, tiny, written
from transforms.rows.parts import attacks_part
from transforms.rows.tables import rows_table
from transforms.storage.store import Store

FILES = sample_files()[:5]
GIVEN = ["", "no such", str(label_of(FILES[2]) + 1), "650", "1"]
"""TargetClass of each image, numbered from 1: none, none that is known, its own, two others."""
FGSM = {"recipe": "fgsm", "surrogates": ["lite0"], "eps": "4/255"}
ATTACKS: Json = {
    "csv": {**FGSM, "target": {"column": "targetclass"}},
    "drawn": {**FGSM, "target": "random"},
    "second": {**FGSM, "target": "second", "adaptive": True},
    "least": {**FGSM, "surrogates": ["lite0", "lite1"], "target": "least-likely"},
    "ten": {**FGSM, "target": {"random": 10}},
    "list": {**FGSM, "target": [24, label_of(FILES[0])]},
}


@dataclass(frozen=True)
class Made:
    """An experiment on five images in three chunks, and its finished run."""

    folder: Path
    output: Path
    experiment: Json

    def again(self, folder: Path, **changes: Any) -> Path:
        """The experiment, changed, as a file."""
        return written(folder, {**self.experiment, **changes})


def _with_csv(folder: Path, given: list[str] = GIVEN) -> Json:
    """The images mirrored: of those that the models were made for, all wrong classes are as likely."""
    folder.mkdir(exist_ok=True)
    lines = ["ImageId,URL,TrueLabel,TargetClass"]
    for file, target in zip(FILES, given, strict=True):
        Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / f"{file.stem}.png")
        lines.append(f"{file.stem},http://x,{label_of(file) + 1},{target}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    return {"folder": str(folder), "labels": "images.csv"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("targets")
    experiment = tiny(images=_with_csv(folder / "images"), attacks=ATTACKS, all_probabilities=True)
    run(written(folder, experiment), folder / "run", code=3)
    return Made(folder, folder / "run", experiment)


def targets(output: Path) -> dict[str, dict[str, int]]:
    """By attack and image."""
    found: dict[str, dict[str, int]] = {}
    for row in rows(output, "attacks"):
        found.setdefault(row["attack"], {})[row["image_id"]] = row["target"]
    return found


def test_each_image_has_the_target_that_its_attack_says(made: Made) -> None:
    found, names = targets(made.output), [file.stem for file in FILES]
    labels = {file.stem: label_of(file) for file in FILES}
    assert found["csv"] == {names[2]: labels[names[2]], names[3]: 649, names[4]: 0}
    ten = [found[f"ten:target=random:{number}" if number > 1 else "ten:target=random"] for number in range(1, 11)]
    assert ten[0] == found["drawn"]
    for name in names:
        wanted = {each[name] for each in ten}
        assert len(wanted) == 10 and labels[name] not in wanted
    assert found["list:target=24"] == dict.fromkeys(names, 24)
    assert found["second@jpeg:quality=75"] == found["second"]
    clean = {
        row["image_id"]: np.array(row["probabilities"])
        for row in rows(made.output, "predictions")
        if row["attack"] == "none" and row["defense"] == "none"
    }
    for name in names:
        clean[name][labels[name]] = -1
        assert found["second"][name] == clean[name].argmax()


def test_predictions_have_their_attacks_targets_and_success_follows(made: Made) -> None:
    found, seen = targets(made.output), rows(made.output, "predictions")
    for row in seen:
        assert row["target"] == found.get(row["attack"], {}).get(row["image_id"])
        if row["target"] is not None:
            assert row["target_confidence"] == pytest.approx(row["probabilities"][row["target"]])
    for row in rows(made.output, "attacks"):
        assert row["success"] == (row["adversarial_predicted"] == row["target"])
    said = {
        (image, attack): success
        for image, attack, success in open_run(str(made.output)).rows(
            "select image_id, attack, success from answers where defense = 'none' and attack <> 'none'"
        )[1]
    }
    own = FILES[2].stem, FILES[0].stem
    assert said[own[0], "csv"] is None and said[own[1], f"list:target={label_of(FILES[0])}"] is None
    assert {each for each, success in said.items() if success is None} == {
        (own[0], "csv"),
        (own[1], f"list:target={label_of(FILES[0])}"),
    }


def test_an_image_without_a_target_fails_in_that_attack_alone(made: Made) -> None:
    failed = {(row["image_id"], row["stage"], row["attack"]): row["message"] for row in rows(made.output, "failures")}
    one, other = FILES[0].stem, FILES[1].stem
    assert failed.keys() == {(one, "attack", "csv"), (other, "attack", "csv")}
    assert failed[one, "attack", "csv"] == "no target: its targetclass is empty"
    assert "no target: its targetclass is an unknown class 'no such'" in failed[other, "attack", "csv"]
    said = invoke("plan", made.folder / "experiment.yaml", "--output", made.output).stderr
    assert "attacks.csv.target: 2 of 5 images have none, each a row of failures" in said
    assert "attacks.csv.target: the label of 1 of 5 images, which do not count in its success" in said


def test_verify_finds_each_changed_target_and_nothing_else(made: Made, tmp_path: Path) -> None:
    assert invoke("verify", made.output, "--sample", 5).exit_code == 0
    store = Store(str(shutil.copytree(made.output, tmp_path / "run")))
    changed = ["csv", "drawn", "second", "least", "ten:target=random:4", "list:target=24"]
    for attack in changed:
        part = attacks_part(2, attack)  # of the last image alone
        (row,) = store.read(part).to_pylist()
        store.publish(part, rows_table("attacks", [{**row, "target": 700, "success": False}]))
    verified = invoke("verify", store.root, "--sample", 5)
    assert verified.exit_code == 3
    for attack in changed:
        assert f"{FILES[4].stem} after {attack}: its target is 700" in verified.stdout
    assert verified.stdout.count("its target is") == len(changed)
    assert f"{FILES[4].stem} after drawn: predictions has another target than attacks" in verified.stdout


def test_shards_want_what_a_whole_run_wants(made: Made, tmp_path: Path) -> None:
    for share in ("1/2", "2/2"):
        run(made.folder / "experiment.yaml", tmp_path / "run", "--shard", share, code=3)
    assert contents(tmp_path / "run") == contents(made.output)


def test_a_resumed_run_wants_the_same_and_a_new_model_sees_it(made: Made, tmp_path: Path) -> None:
    """Whatever was lost comes back as it was; a model that comes later has the targets that the rows have."""
    shutil.copytree(made.output, tmp_path / "run")
    gone = [path for path in (tmp_path / "run").rglob("*chunk-00001.parquet") if "attack=" in str(path)]
    for path in gone[::3]:
        path.unlink()
    changed = made.again(tmp_path, targets=["lite0", "lite1"])
    run(changed, tmp_path / "run", code=3)
    before, now = contents(made.output), contents(tmp_path / "run")
    assert {path: now[path] for path in before} == before
    found = targets(tmp_path / "run")
    added = [row for row in rows(tmp_path / "run", "predictions") if row["model"] == "lite1"]
    assert len(added) == len(rows(made.output, "predictions"))
    assert all(row["target"] == found.get(row["attack"], {}).get(row["image_id"]) for row in added)


def test_other_targets_under_an_old_name_are_refused(made: Made, tmp_path: Path) -> None:
    output = made.folder / "run"
    for target in ("second", [24], {"random": 9}):
        changed = made.again(tmp_path, attacks={"ten": {**FGSM, "target": target}})
        assert "attacks.ten.target" in refused(changed, output)
    moved = made.again(
        tmp_path, images=_with_csv(tmp_path / "moved", [*GIVEN[:4], "2"]), attacks={"csv": ATTACKS["csv"]}
    )
    assert "was made with other targets in column targetclass; use another --output" in refused(moved, output)
    # The column does not matter to an experiment that takes nothing from it.
    without = made.again(tmp_path, images=_with_csv(tmp_path / "moved"), attacks={"drawn": ATTACKS["drawn"]})
    assert invoke("plan", without, "--output", output).exit_code == 0
    kept = json.loads((output / "run.json").read_text())["definitions"]["images"]["targets"]
    assert kept.keys() == {"targetclass"}


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"samples": "foolbox"}, "attacks.a.target: column T is one of a CSV; give images.labels"),
        ({}, "has no column 'T', which target: names; its first row names imageid, url, truelabel, targetclass"),
    ],
)
def test_a_column_that_is_not_there_is_refused(images: Json, said: str, tmp_path: Path) -> None:
    source = images or _with_csv(tmp_path / "images")
    experiment = tiny(models=COARSE, images=source, attacks={"a": {**FGSM, "target": {"column": "T"}}})
    assert said in refused(written(tmp_path, experiment), tmp_path / "run")

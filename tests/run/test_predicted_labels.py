"""Photographs without labels: what a model says of them is their label, and rows, `verify` and tables say so."""

import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from pipeline.results import open_run
from pipeline.results.crosstabs import crosstab
from tests.support.runs import Json, contents, invoke, refused, rows, run, sample_files, tiny, written
from transforms.rows.parts import images_part
from transforms.rows.tables import rows_table
from transforms.storage.store import Store

FILES = sample_files()[:5]
ATTACK = {"recipe": "fgsm", "surrogates": ["lite1"], "eps": "4/255"}


def _photographs(folder: Path) -> Path:
    """Mirrored, so that the models disagree about them; and one that is no picture."""
    folder.mkdir(parents=True)
    for file in FILES:
        Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / f"{file.stem}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def _experiment(photographs: Path, by: str = "lite0", **changes: object) -> Json:
    images = {"folder": str(photographs), "labels": {"predicted-by": by}}
    return tiny(images=images, attacks={"fgsm": ATTACK}, targets=["lite0", "lite1"], defenses=[], **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, the experiment and its run."""
    folder = tmp_path_factory.mktemp("predicted")
    path = written(folder, _experiment(_photographs(folder / "photographs")))
    said = run(path, folder / "run", code=3)
    assert "images.labels: they are what lite0 says; accuracy is agreement with it" in said.stderr
    assert "clean images right" not in said.stdout
    assert "Labels are what lite0 says of the clean images" in said.stdout
    return folder


def test_labels_are_what_the_model_says_and_rows_say_so(made: Path) -> None:
    images = {row["image_id"]: row for row in rows(made / "run", "images")}
    assert images.keys() == {file.stem for file in FILES}
    assert {row["labelled_by"] for row in images.values()} == {"lite0"}
    seen = [row for row in rows(made / "run", "predictions") if row["attack"] == "none"]
    said = {
        model: {row["image_id"]: row["predicted"] for row in seen if row["model"] == model}
        for model in ("lite0", "lite1")
    }
    assert {name: row["label"] for name, row in images.items()} == said["lite0"] != said["lite1"]
    for table in ("attacks", "predictions"):
        assert all(row["label"] == images[row["image_id"]]["label"] for row in rows(made / "run", table))
    assert all(row["correct"] == (row["predicted"] == row["label"]) for row in seen)
    assert [row["image_id"] for row in rows(made / "run", "failures")] == ["broken"]
    sheet = crosstab(open_run(str(made / "run")), "model", "attack", "accuracy")
    assert sheet.cells[0][:2] == ["lite0", "5/5 100% [57–100]"]
    assert "Labels are what lite0 says of the clean images: accuracy is agreement with it." in sheet.notes


def test_verify_asks_the_model_again(made: Path, tmp_path: Path) -> None:
    assert invoke("verify", made / "run").exit_code == 0
    store = Store(str(shutil.copytree(made / "run", tmp_path / "run")))
    table = store.read(images_part(0)).to_pylist()
    store.publish(images_part(0), rows_table("images", [{**table[0], "label": 7}, *table[1:]]))
    assert (
        f"{table[0]['image_id']}: its label is 7, and lite0 says {table[0]['label']}"
        in invoke("verify", store.root).stdout
    )


def test_shares_and_one_model_at_a_time_make_the_same_rows(made: Path, tmp_path: Path) -> None:
    for share in ("1/2", "2/2"):
        run(made / "experiment.yaml", tmp_path / "run", "--shard", share, "--models-in-memory", "1", code=3)
    assert contents(tmp_path / "run") == contents(made / "run")


def test_an_archive_without_labels_is_labelled_like_the_folder(made: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for file in sorted((made / "photographs").iterdir()):
            tar.add(file, file.name)
    packed = _experiment(made)
    packed["images"] = {"webdataset": str(tmp_path / "all.tar"), "labels": {"predicted-by": "lite0"}}
    run(written(tmp_path, packed), tmp_path / "run", code=3)
    of_folder = {f"all/{row['image_id']}": row["label"] for row in rows(made / "run", "images")}
    assert {row["image_id"]: row["label"] for row in rows(tmp_path / "run", "images")} == of_folder


def test_what_cannot_be_is_refused(made: Path, tmp_path: Path) -> None:
    photographs = made / "photographs"
    other = written(tmp_path / "other", _experiment(photographs, by="lite1"))
    said = refused(other, made / "run")
    assert "images.labels: in" in said
    assert "they are what lite0 says, in the experiment what lite1 says; use another --output" in said
    unknown = written(tmp_path / "unknown", _experiment(photographs, by="lite9"))
    assert "unknown model in images.labels: 'lite9'" in refused(unknown, tmp_path / "run")
    mixing = _experiment(photographs)
    mixing["attacks"] = {"a": {**ATTACK, "recipe": "admix"}}
    assert "admix mixes in other classes, and none is known without labels" in refused(
        written(tmp_path / "mixing", mixing), tmp_path / "run"
    )
    for images, reason in (
        ({"samples": "foolbox", "labels": {"predicted-by": "lite0"}}, "predicted-by is for images without any"),
        ({"imagenet": "x", "labels": {"predicted-by": "lite0"}}, "predicted-by is for images without any"),
        ({"folder": "x", "labels": {"predicted_by": "lite0"}}, "neither the path of a CSV nor {predicted-by: MODEL}"),
        ({"folder": "x", "labels": ""}, "neither the path of a CSV"),
    ):
        assert reason in refused(written(tmp_path / "images", tiny(images=images)), tmp_path / "run")

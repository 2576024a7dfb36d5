"""Pictures that other tools have made are matched, checked, judged and reported like attacks of ours."""

import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchattacks
from PIL import Image
from torch import nn

from pipeline.results import open_run
from tests.support.coarse import coarse0
from tests.support.runs import (
    Row,
    contents,
    costs,
    invoke,
    label_of,
    refused,
    rows,
    run,
    sample_files,
    tiny,
    written,
)
from transforms.attacks.balls import BALLS
from transforms.attacks.recipes.names import RECIPES
from transforms.models.views import center, look
from transforms.rows.canvases import from_png

FILES = sample_files()[:3]
IDS = [file.stem for file in FILES]
EPS = "4/255"


def clean(file: Path) -> npt.NDArray[np.uint8]:
    """A sample's canvas, uint8 (224, 224, 3), cut here by hand: the samples have 224 pixels."""
    with Image.open(file) as image:
        width, height = (256 * side // min(image.size) for side in image.size)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        square = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(square.crop((left, top, left + 224, top + 224)))


def changed(file: Path, levels: int) -> npt.NDArray[np.uint8]:
    """Every other value, in one direction, by so many levels."""
    found = clean(file).astype(int)
    found[::2] += np.where(found[::2] > 127, -levels, levels)
    return found.astype(np.uint8)


def made(folder: Path, levels: Mapping[str, int], suffix: str = ".png") -> Path:
    folder.mkdir(exist_ok=True)
    for file in FILES:
        if file.stem in levels:
            Image.fromarray(changed(file, levels[file.stem])).save(folder / f"{file.stem}{suffix}")
    return folder


def theirs(folder: Path | str, **more: Any) -> dict[str, Any]:
    return tiny(attacks={"theirs": {"recipe": "pictures", "folder": str(folder), "eps": EPS, **more}}, defenses=[])


def of(output: Path, table: str, attack: str = "theirs") -> dict[str, Row]:
    return {row["image_id"]: row for row in rows(output, table) if row["attack"] == attack}


def test_pictures_are_shown_as_they_are_and_cost_nothing(tmp_path: Path) -> None:
    folder = made(tmp_path / "pictures", dict.fromkeys(IDS, 4))
    output = tmp_path / "run"
    said = run(written(tmp_path, {**theirs(folder), "defenses": tiny()["defenses"]}), output).stdout
    assert "beyond" not in said.lower()
    canvases, attacks = of(output, "canvases"), of(output, "attacks")
    for file in FILES:
        assert np.array_equal(from_png(canvases[file.stem]["canvas"]).transpose(1, 2, 0), changed(file, 4))
        row = attacks[file.stem]
        assert (row["linf"], row["excess"], row["forwards"], row["backwards"]) == (4 / 255, 0, 0, 0)
        assert (row["surrogates"], row["success"], row["clean_predicted"], row["steps"]) == ([], None, None, None)
        assert row["label"] == label_of(file)
    assert sum(cost["forwards"] for cost in costs(output)) == 3 * 4  # clean and theirs, undefended and behind JPEG
    looks = [(row["image_id"], row["defense"]) for row in rows(output, "predictions") if row["attack"] == "theirs"]
    assert sorted(looks) == sorted((image, defense) for image in IDS for defense in ("none", "jpeg:quality=75"))
    verified = invoke("verify", output)
    assert verified.exit_code == 0, verified.output
    assert invoke("report", output).exit_code == 0


def test_surrogates_judge_if_they_are_named(tmp_path: Path) -> None:
    """Another run's canvases are pictures, too: the rows are the other run's."""
    first = tmp_path / "first"
    run(written(tmp_path, tiny()), first)
    attacks = {
        name: {**tiny()["attacks"][name], "recipe": "pictures", "folder": str(first), "attack": name}
        for name in ("pgd", "mi")
    }
    for each in attacks.values():
        del each["steps"]
    run(written(tmp_path, tiny(attacks=attacks)), tmp_path / "second")
    own = {"recipe", "objective", "steps", "forwards", "backwards", "excess"}
    for one, other in zip(rows(first, "attacks"), rows(tmp_path / "second", "attacks"), strict=True):
        assert {key for key in one if one[key] != other[key]} <= own
    assert rows(first, "predictions") == rows(tmp_path / "second", "predictions")
    frame = open_run(str(tmp_path / "second")).success()
    assert set(frame["attack"]) == {"pgd", "mi"}


def test_rounded_pictures_of_torchattacks_have_the_rows_of_its_adapter(tmp_path: Path) -> None:
    """Truncated ones are darker by one level in some values, some of them beyond the budget, and the rows say so."""
    network = coarse()
    rounded, truncated = tmp_path / "rounded", tmp_path / "truncated"
    for folder in (rounded, truncated):
        folder.mkdir()
    attack = torchattacks.MIFGSM(network, eps=4 / 255, alpha=1.5 / 255, steps=3)
    for file in FILES:
        canvas = torch.from_numpy(clean(file).transpose(2, 0, 1).copy())[None].float() / 255
        found = 255 * attack(canvas, torch.tensor([label_of(file)]))[0].permute(1, 2, 0).numpy()
        Image.fromarray(found.round().astype(np.uint8)).save(rounded / f"{file.stem}.png")
        Image.fromarray(found.astype(np.uint8)).save(truncated / f"{file.stem}.png")
    shared = {"surrogates": ["lite0"], "eps": EPS}
    attacks = {
        "adapter": {"recipe": "torchattacks/MIFGSM", "alpha": "1.5/255", "steps": 3, **shared},
        "rounded": {"recipe": "pictures", "folder": str(rounded), **shared},
        "truncated": {"recipe": "pictures", "folder": str(truncated), **shared},
    }
    models = {"lite0": {"source": "coarse0", "engine": "torch"}}
    run(written(tmp_path, tiny(attacks=attacks, models=models, defenses=[])), tmp_path / "run")
    own = {"attack", "recipe", "steps", "forwards", "backwards", "excess"}
    for table in ("attacks", "canvases", "predictions"):
        adapter, same = of(tmp_path / "run", table, "adapter"), of(tmp_path / "run", table, "rounded")
        for image, row in adapter.items():
            assert {key for key in row if row[key] != same[image][key]} <= own
    canvases = {kind: of(tmp_path / "run", "canvases", kind) for kind in attacks}
    for image, row in of(tmp_path / "run", "attacks", "truncated").items():
        before, after = (from_png(canvases[kind][image]["canvas"]).astype(int) for kind in ("adapter", "truncated"))
        assert set(np.unique(before - after)) == {0, 1}
        assert row["excess"] == pytest.approx(row["linf"] - 4 / 255) and row["linf"] in (4 / 255, 5 / 255)


def coarse() -> nn.Module:
    """One of the tests' models as torchattacks takes it: canvases in, logits out."""
    classifier = coarse0().load(torch.device("cpu"))

    class Shown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.zeros(0))

        def forward(self, canvases: torch.Tensor) -> torch.Tensor:
            return look(classifier, center, canvases, 224 / 256)

    return Shown().eval()


def test_an_archive_is_read_where_it_lies_and_nothing_leaves_it(tmp_path: Path) -> None:
    """A member whose path leads out of a folder is passed over; its image costs one row, as if there were none."""
    folder = made(tmp_path / "pictures", dict.fromkeys(IDS, 4))
    outside = made(tmp_path / "outside", {IDS[0]: 1})
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        archive.add(folder / f"{IDS[0]}.png", f"../../{outside.name}/{IDS[0]}.png")
        archive.add(folder / f"{IDS[1]}.png", f"deep/{IDS[1]}.png")
        archive.add(folder / f"{IDS[2]}.png", f"./{IDS[2]}.png")
    output = tmp_path / "run"
    result = run(written(tmp_path, theirs(tmp_path / "pictures.tar")), output, code=3)
    assert "attacks.theirs.folder: 1 images have no picture there" in " ".join(result.stderr.split())
    assert {image: row["linf"] for image, row in of(output, "attacks").items()} == dict.fromkeys(IDS[1:], 4 / 255)
    (failure,) = rows(output, "failures")
    assert (failure["image_id"], failure["stage"], failure["attack"]) == (IDS[0], "attack", "theirs")
    assert failure["message"] == "no picture has its name"
    assert np.array_equal(np.asarray(Image.open(outside / f"{IDS[0]}.png")), changed(FILES[0], 1))
    assert invoke("verify", output).exit_code == 0


def test_pictures_that_are_no_canvases_cost_one_row_each(tmp_path: Path) -> None:
    folder = made(tmp_path / "pictures", {IDS[0]: 4, IDS[2]: 4})
    made(folder, {IDS[0]: 4}, ".bmp")
    Image.fromarray(changed(FILES[1], 4)[:200]).save(folder / f"{IDS[1]}.png")
    run(written(tmp_path, theirs(folder)), tmp_path / "run", code=3)
    assert {row["image_id"]: row["message"] for row in rows(tmp_path / "run", "failures")} == {
        IDS[0]: f"2 pictures have its name: {IDS[0]}.bmp, {IDS[0]}.png",
        IDS[1]: "224 x 200 pixels, where the canvas has 224 x 224",
    }
    assert set(of(tmp_path / "run", "attacks")) == {IDS[2]}


def test_what_is_beyond_the_budget_says_by_how_much(tmp_path: Path) -> None:
    """It is shown and counted all the same: it is what the tool has made."""
    folder = made(tmp_path / "pictures", dict(zip(IDS, (1, 4, 6), strict=True)))
    output = tmp_path / "run"
    result = run(written(tmp_path, theirs(folder)), output)
    assert [of(output, "attacks")[image]["excess"] for image in IDS] == [0, 0, pytest.approx(2 / 255)]
    assert "theirs, 1 of 3 pictures, by 0.007843 at most" in " ".join(result.stdout.split())
    assert len(of(output, "predictions")) == 3
    assert invoke("verify", output).exit_code == 0
    assert "Beyond ε" in invoke("table", output).stdout


@pytest.mark.parametrize(("norm", "eps"), [("linf", 4 / 255), ("l2", 3.0), ("l1", 900.0)])
@pytest.mark.parametrize("levels", [1, 4, 6])
def test_excess_is_a_length_in_the_norm(norm: str, eps: float, levels: int) -> None:
    before = np.full((3, 16, 16), 100, np.uint8)
    after = before + np.uint8(levels)
    found = RECIPES["pictures"].make(BALLS[norm](eps / 64 if norm == "l1" else eps / 8), folder="x")
    values = 3 * 16 * 16
    length = {"linf": levels, "l2": levels * values**0.5, "l1": levels * values}[norm] / 255
    bound = eps / 64 if norm == "l1" else eps / 8
    assert found.columns(before, after) == {"excess": pytest.approx(max(0, length - bound), abs=1e-9)}
    assert found.columns(before, before) == {"excess": 0}


def test_another_folder_under_an_old_name_is_refused_and_a_moved_one_is_not(tmp_path: Path) -> None:
    folder = made(tmp_path / "pictures", dict.fromkeys(IDS, 4))
    output = tmp_path / "run"
    run(written(tmp_path, theirs(folder)), output)
    before = contents(output)
    defined = json.loads((output / "run.json").read_text())["definitions"]["attacks"]["theirs"]
    assert defined["folder"].startswith("sha256:")
    moved = folder.rename(tmp_path / "moved")
    run(written(tmp_path, theirs(moved)), output)
    assert contents(output) == before
    made(moved, {IDS[1]: 3})
    said = refused(written(tmp_path, theirs(moved)), output)
    assert "attacks.theirs.folder" in said and "sha256:" in said and "use another name" in said
    assert contents(output) == before


def test_more_images_of_the_same_folder_come_to_a_run(tmp_path: Path) -> None:
    folder = made(tmp_path / "pictures", dict.fromkeys(IDS, 4))
    experiment = theirs(folder)
    one = {**experiment, "images": {"samples": "foolbox", "select": IDS[:1]}}
    result = run(written(tmp_path, one), tmp_path / "grown")
    assert "2 of 3 pictures are of no image of the run" in result.stderr
    run(written(tmp_path, experiment), tmp_path / "grown")
    run(written(tmp_path, experiment), tmp_path / "whole")
    for table in ("attacks", "predictions"):
        assert rows(tmp_path / "grown", table) == rows(tmp_path / "whole", table)


def test_names_match_with_folders_and_without(tmp_path: Path) -> None:
    """Images in class folders, pictures in none, or in folders of another kind; two images of one name need theirs."""
    photos = tmp_path / "photos"
    for file, folder in zip(FILES, ("a", "b", "b"), strict=True):
        (photos / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, photos / folder / ("same.jpg" if file != FILES[2] else "other.jpg"))
    lines = ["file,label", *(f"{each},{label_of(FILES[0])}" for each in ("a/same.jpg", "b/same.jpg", "b/other.jpg"))]
    (photos / "labels.csv").write_text("\n".join(lines) + "\n")
    pictures = tmp_path / "pictures"
    (pictures / "b").mkdir(parents=True)
    for file, name in zip(FILES, ("same", "b/same", "other"), strict=True):
        Image.fromarray(changed(file, 4)).save(pictures / f"{name}.png")
    experiment = {**theirs(pictures), "images": {"folder": str(photos), "labels": "labels.csv"}}
    run(written(tmp_path, experiment), tmp_path / "run", code=3)
    assert set(of(tmp_path / "run", "attacks")) == {"b/same", "b/other"}
    assert {row["linf"] for row in of(tmp_path / "run", "attacks").values()} == {4 / 255}
    assert [row["image_id"] for row in rows(tmp_path / "run", "failures")] == ["a/same"]


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ({"folder": ""}, ["attacks.theirs", "folder: is missing"]),
        ({"folder": "nowhere"}, ["attacks.theirs.folder", "does not exist"]),
        ({"folder": "others"}, ["attacks.theirs.folder", "none of the 1 pictures", "'x.png'", IDS[0]]),
        ({"attack": "pgd"}, ["attacks.theirs.folder", "no run directory", "pgd"]),
        ({"view": "ten-crop"}, ["view: ten-crop has no effect without surrogates"]),
        ({"adaptive": True}, ["adaptive", "made already"]),
        ({"steps": 3}, ["pictures has no parameter 'steps'"]),
        ({"eps": None}, ["eps"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(
    tmp_path: Path, attack: dict[str, Any], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "pictures", dict.fromkeys(IDS, 4))
    (tmp_path / "others").mkdir()
    Image.new("RGB", (224, 224)).save(tmp_path / "others" / "x.png")
    found = refused(written(tmp_path, theirs(**{"folder": tmp_path / "pictures", **attack})), tmp_path / "run")
    assert [each for each in said if each not in found] == []


def test_a_run_directory_of_several_attacks_wants_to_know_which(tmp_path: Path) -> None:
    run(written(tmp_path, tiny(defenses=[], targets=["lite1"])), tmp_path / "first")
    said = refused(written(tmp_path, theirs(tmp_path / "first")), tmp_path / "run")
    assert "has the canvases of mi, pgd; say which" in said
    said = refused(written(tmp_path, theirs(tmp_path / "first", attack="pdg")), tmp_path / "run")
    assert "did you mean 'pgd'?" in said

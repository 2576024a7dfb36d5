"""`megalith pictures`: files that hold the stored bytes, under names that do no harm."""

import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.report.canvases import pixels
from pipeline.report.pictures import file_name, write_pictures
from pipeline.results.tables import open_run
from tests.support.made import made_run
from tests.support.reported import SIDE, png, random_run
from tests.support.runs import complaint, invoke, rows
from transforms.errors import InputError


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "pictures.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_hold_the_stored_pictures_and_their_difference(tmp_path: Path) -> None:
    made = random_run(tmp_path / "run", images=3)
    stored = {(row["image_id"], row["attack"]): row["canvas"] for row in rows(made, "canvases")}
    result = invoke(
        "pictures", made, "--output", tmp_path / "out", "--attack", "weak", "--attack", "small", "--times", 8
    )
    assert result.exit_code == 0
    assert ": 6 attacked pictures" in result.stdout
    found = table_of(tmp_path / "out")
    assert {(row["image_id"], row["attack"]) for row in found} == {
        (f"i0{n}", attack) for n in range(3) for attack in ("weak", "small")
    }
    for row in found:
        clean, attacked = stored[row["image_id"], "none"], stored[row["image_id"], row["attack"]]
        assert (tmp_path / "out" / row["clean_file"]).read_bytes() == clean
        assert (tmp_path / "out" / row["adversarial_file"]).read_bytes() == attacked
        shown = pixels((tmp_path / "out" / row["difference_file"]).read_bytes())
        expected = 128 + 8 * (pixels(attacked).astype(int) - pixels(clean))
        assert (shown == np.clip(expected, 0, 255)).all()
        assert shown.shape == (SIDE, SIDE, 3)
    assert len(list((tmp_path / "out").iterdir())) == 1 + 3 + 2 * 6


def test_a_condition_chooses(tmp_path: Path) -> None:
    made = random_run(tmp_path / "run", images=4)
    count = write_pictures(open_run(str(made)), tmp_path / "out", where="success and l2 < 0.5 and attack = 'strong'")
    expected = [
        row["image_id"]
        for row in rows(made, "attacks")
        if row["attack"] == "strong" and row["success"] and row["l2"] < 0.5
    ]
    assert [row["image_id"] for row in table_of(tmp_path / "out")] == expected
    assert count == len(expected)


def test_wrong_input_is_told(tmp_path: Path) -> None:
    made = random_run(tmp_path / "run", images=1)
    said = complaint(invoke("pictures", made, "--output", tmp_path / "out", "--attack", "wek"))
    assert said == "megalith: unknown attack 'wek'; did you mean 'weak'?"
    assert "nothing" in complaint(invoke("pictures", made, "--output", tmp_path / "out", "--where", "nothing = 1"))
    with pytest.raises(InputError):
        write_pictures(open_run(str(made)), tmp_path / "out", where="true); drop table attacks; --")


HOSTILE = ["../../etc/passwd", "..", "/abs", "a@b", "a%40b", "=cmd()", "x" * 300, "é" * 100, "q\"'\n", "con\x00"]


def test_hostile_names_stay_in_the_folder_and_apart(tmp_path: Path) -> None:
    picture = png(np.zeros((4, 4, 3), np.uint8))
    attacks = [{"image_id": name, "attack": "pgd"} for name in HOSTILE]
    canvases = [{"image_id": name, "attack": each, "canvas": picture} for name in HOSTILE for each in ("none", "pgd")]
    made = made_run(tmp_path / "run", [], attacks, canvases=canvases)
    folder = tmp_path / "deep" / "out"
    assert write_pictures(open_run(str(made)), folder) == len(HOSTILE)
    assert {each.name for each in (tmp_path / "deep").iterdir()} == {"out"}
    files = [each.name for each in folder.iterdir()]
    assert len(files) == 3 * len(HOSTILE) + 1
    assert all(len(each.encode()) <= 255 and each.isprintable() for each in files)
    with (folder / "pictures.csv").open(newline="") as file:
        assert not [row for row in csv.reader(file) if row[0].startswith(("=", "+", "-", "@"))]


def test_names_of_files_do_not_meet() -> None:
    assert file_name("a@b", "c") != file_name("a", "b@c")
    assert file_name("x" * 300, "c") != file_name("x" * 301, "c")
    assert file_name("n02056570_king penguin", "none") == "n02056570_king penguin@none.png"

"""One bad image costs one row: among bad ones, the good ones' rows are what they are alone."""

import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.preforked import command
from tests.support.runs import (
    Row,
    complaint,
    invoke,
    is_root,
    label_of,
    refused,
    rows,
    run,
    sample_files,
    written,
)

pytestmark = pytest.mark.system

GOOD = sample_files()[:4]


def experiment(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "folder",
        "chunk_size": 3,
        "images": {"folder": str(folder), "labels": "labels.csv"},
        "models": {"lite0": "packaged/efficientnet-lite0"},
        # A random start: the draws, too, must not depend on who else is there.
        "attacks": {"pgd": {"recipe": "pgd", "surrogates": ["lite0"], "eps": "4/255", "steps": 1}},
        "defenses": {"jpeg": {"quality": [75]}},
        **changes,
    }


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds nothing."""

    def block(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", zlib.compress(b"")) + block(b"IEND", b"")


def add_good(folder: Path) -> list[str]:
    """Copies the good images; returns their rows of the CSV."""
    folder.mkdir(parents=True)
    for file in GOOD:
        shutil.copyfile(file, folder / file.name)
    return [f"{file.name},{label_of(file)}" for file in GOOD]


def add_bad(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Writes one file of each kind; returns their rows of the CSV, and a word of the reason by image id.

    Names are such that the first chunk is bad altogether, and the others are mixed.
    """
    jpeg = GOOD[0].read_bytes()
    (folder / "a-empty.jpg").write_bytes(b"")
    (folder / "a-text.jpg").write_text("This is not an image.\n" * 100)
    (folder / "a-truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "imagenet_00_a.png").write_bytes(png_header(9_000, 9_000))
    (folder / "imagenet_00_b.png").write_bytes(png_header(60_000, 60_000))
    (folder / "imagenet_01_unlabeled.jpg").write_bytes(jpeg)
    (folder / "imagenet_01_unknown.jpg").write_bytes(jpeg)
    (folder / "imagenet_02_ambiguous.jpg").write_bytes(jpeg)
    (folder / "imagenet_02_two-labels.jpg").write_bytes(jpeg)
    (folder / "imagenet_02_no-label.jpg").write_bytes(jpeg)
    (folder / "z-dangling.jpg").symlink_to(folder / "nowhere.jpg")
    # The same id as the first good image; sorts after it.
    shutil.copyfile(GOOD[1], folder / GOOD[0].with_suffix(".png").name)
    listed = [
        "a-empty.jpg,1",
        "a-text.jpg,2",
        "a-truncated.jpg,3",
        "imagenet_00_a.png,4",
        "imagenet_00_b.png,5",
        "imagenet_01_unknown.jpg,pinguin of the king",
        "imagenet_02_ambiguous.jpg,crane",
        "imagenet_02_two-labels.jpg,6",
        "imagenet_02_two-labels.jpg,7",
        "imagenet_02_no-label.jpg,",
        "z-missing.jpg,8",
        "z-dangling.jpg,9",
        f"{GOOD[0].with_suffix('.png').name},{label_of(GOOD[0])}",
    ]
    reasons = {
        "a-empty": "empty",
        "a-text": "not an image",
        "a-truncated": "truncated",
        "imagenet_00_a": "too large",
        "imagenet_00_b": "too large",
        "imagenet_01_unlabeled": "unlabeled",
        "imagenet_01_unknown": "unknown class",
        "imagenet_02_ambiguous": "ambiguous class",
        "imagenet_02_two-labels": "more than once",
        "imagenet_02_no-label": "unlabeled",
        "z-missing": "not in the folder",
        "z-dangling": "No such file",
        GOOD[0].stem: "duplicate id",
    }
    if not is_root():  # whom no permission stops
        (folder / "z-secret.jpg").write_bytes(jpeg)
        (folder / "z-secret.jpg").chmod(0)
        listed.append("z-secret.jpg,10")
        reasons["z-secret"] = "Permission denied"
    return listed, reasons


def without(found: list[Row], *columns: str) -> list[Row]:
    return [{key: value for key, value in row.items() if key not in columns} for row in found]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str], str]:
    """The run directories of the good images alone and of good and bad ones, the bad ones' reasons, and the summary."""
    folder = tmp_path_factory.mktemp("images")
    listed = add_good(folder / "good")
    (folder / "good" / "labels.csv").write_text("\n".join(["file,label", *listed]))
    run(written(folder, experiment(folder / "good"), "good.yaml"), folder / "alone")

    listed = add_good(folder / "mixed")
    worse, reasons = add_bad(folder / "mixed")
    (folder / "mixed" / "labels.csv").write_text("\n".join(["file,label", *listed, *worse]))
    result = run(written(folder, experiment(folder / "mixed"), "mixed.yaml"), folder / "among", code=3)
    return folder / "alone", folder / "among", reasons, result.stdout


def test_good_images_have_the_same_rows(both: tuple[Path, Path, dict[str, str], str]) -> None:
    alone, among, _, _ = both
    assert len(rows(alone, "images")) == len(GOOD)
    # The two folders have other paths.
    assert without(rows(among, "images"), "uri") == without(rows(alone, "images"), "uri")
    for table, count in (("attacks", 1), ("canvases", 2), ("predictions", 4)):
        assert rows(among, table) == rows(alone, table)
        assert len(rows(alone, table)) == count * len(GOOD)
    assert rows(alone, "failures") == []


def test_each_bad_image_has_one_row_with_its_reason(both: tuple[Path, Path, dict[str, str], str]) -> None:
    _, among, reasons, _ = both
    failures = rows(among, "failures")
    assert sorted(row["image_id"] for row in failures) == sorted(reasons)
    for row in failures:
        assert reasons[row["image_id"]].casefold() in row["message"].casefold(), row
        assert "\n" not in row["message"]
        assert (row["stage"], row["attack"], row["attempt"]) == ("load", "none", 1)
        assert row["model"] == row["defense"] == "none"
        assert Path(row["uri"]).name.startswith(row["image_id"])
    duplicate = next(row for row in failures if row["image_id"] == GOOD[0].stem)
    assert duplicate["uri"].endswith(".png")


def test_the_summary_shows_the_failures(both: tuple[Path, Path, dict[str, str], str]) -> None:
    summary = both[3]
    assert "Failures" in summary
    assert "empty file" in summary
    assert "Clean accuracy" in summary


def test_running_again_makes_nothing_and_still_says_so(
    both: tuple[Path, Path, dict[str, str], str], tmp_path: Path
) -> None:
    _, among, reasons, _ = both
    output = tmp_path / "run"
    shutil.copytree(among, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    run(among.parent / "mixed.yaml", output, code=3)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")} == before
    assert len(rows(output, "failures")) == len(reasons)


def test_only_bad_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(b"no image")
    (folder / "labels.csv").write_text("file,label\n0.jpg,1\n1.jpg,2\n2.jpg,3\n")
    output = tmp_path / "run"
    finished = command("run", written(tmp_path, experiment(folder)), "--output", output)
    assert finished.returncode == 3, finished.stderr
    assert "Traceback" not in finished.stderr
    assert [row["image_id"] for row in rows(output, "failures")] == ["0", "1", "2", "3"]
    for table in ("images", "attacks", "canvases", "predictions"):
        assert rows(output, table) == []


def test_what_the_listing_says_is_said_before_anything_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    listed = add_good(folder)
    listed[1] = f"{GOOD[1].name},king pinguin"
    (folder / "labels.csv").write_text("\n".join(["file,label", *listed]))
    path = written(tmp_path, experiment(folder))
    planned = invoke("plan", path, "--output", tmp_path / "run")
    assert planned.exit_code == 0
    (said,) = planned.stderr.splitlines()
    assert said.startswith(
        f"warning: 1 of 4 images cannot be used, each a row of failures; {GOOD[1].stem}: unknown class"
    )

    (folder / "labels.csv").write_text("\n".join(["file,label", *(f"{file.name},catdog" for file in GOOD)]))
    said = complaint(invoke("plan", path, "--output", tmp_path / "run"))
    assert f"images: none of 4 can be used; {GOOD[0].stem}: unknown class 'catdog'" in said


def test_other_labels_are_refused_in_an_old_run_directory(tmp_path: Path) -> None:
    folder, output = tmp_path / "images", tmp_path / "run"
    listed = add_good(folder)
    (folder / "labels.csv").write_text("\n".join(["file,label", *listed]))
    path = written(tmp_path, experiment(folder, attacks={}, defenses={}))
    run(path, output)
    (folder / "labels.csv").write_text("\n".join(["file,label", *listed[:3], f"{GOOD[3].name},145"]))
    said = refused(path, output)
    assert f"images: {output} was made with 4; the 4 of the experiment are others, or labelled otherwise" in said


def test_a_csv_for_other_images_is_no_failure_of_images(tmp_path: Path) -> None:
    """A missing CSV is the user's mistake, not a thousand bad images."""
    folder = tmp_path / "images"
    add_good(folder)
    changed = experiment(folder, images={"folder": str(folder), "labels": "lables.csv"})
    said = refused(written(tmp_path, changed), tmp_path / "run")
    assert "images.labels" in said and "lables.csv" in said
    assert not (tmp_path / "run").exists()

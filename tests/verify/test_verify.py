"""`megalith verify` finds nothing wrong with what was written, and everything that was changed since."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.experiment import load_experiment
from pipeline.run.lock import LOCK, lock, shard_lock
from pipeline.verify.tables import ACCOUNTS, HOW
from tests.support.preforked import command
from tests.support.runs import Finished, complaint, invoke, run, sample_files, stamps, tiny, written
from transforms.errors import StoppedError
from transforms.models.sources.registry import model_source
from transforms.rows.attacks import made_by
from transforms.rows.canvases import canvas_sha256
from transforms.rows.failures import failure_row
from transforms.rows.parts import Part, part_of
from transforms.rows.tables import TABLES, rows_table
from transforms.storage.seal import sealed
from transforms.storage.store import Store

pytestmark = pytest.mark.system

Rows = list[dict[str, Any]]

ATTACKS = "attacks/attack=pgd/chunk-00000.parquet"
CANVASES = "canvases/attack=pgd/chunk-00000.parquet"
CLEAN = "canvases/attack=none/chunk-00000.parquet"
IMAGES = "images/chunk-00000.parquet"
PREDICTIONS = "predictions/attack=pgd/model=lite0/view=center/defense=none/chunk-00000.parquet"


def verified(output: Path, code: int, sample: int = 100) -> str:
    result = invoke("verify", output, "--sample", sample)
    assert result.exit_code == code, result.stdout
    return result.stdout


def cases(said: str) -> dict[str, list[int]]:
    """Of each check: cases, wrong, unknown."""
    lines = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if line.startswith("│")
    ]
    return {what: [int(number) for number in numbers] for what, *numbers in lines}


@pytest.mark.parametrize(("name", "who"), [(LOCK, "another run"), (shard_lock(3, 16), "shard 3/16")])
def test_while_a_run_is_at_work_it_is_not_judged(name: str, who: str, small_run: Finished, tmp_path: Path) -> None:
    """What it has not made yet is not missing."""
    output = small_run.copy(tmp_path / "run")
    with lock(Store(str(output)), name):
        said = complaint(invoke("verify", output))
    assert said == f"megalith: {output}: {who} is at work in it; verify it when that has ended"
    verified(output, 0, sample=1)


def test_what_was_written_is_as_it_should_be(small_run: Finished) -> None:
    """And everything is looked at, each row and each canvas, and sampled predictions of each kind are made again."""
    said = verified(small_run.output, 0, sample=1000)
    images, attacks, models, defenses = 7, 3, 2, 2
    canvases = images * (1 + attacks)
    predictions = canvases * models * (1 + defenses)
    files, tasks, rows, agree, defined, seen, read, again, labelled, aimed = cases(said).values()
    assert files == [len(stamps(small_run.output)), 0, 0]
    assert tasks[1:] == [0, 0]
    assert rows == [images + images * attacks + canvases + predictions, 0, 0]
    assert agree == [images * attacks + predictions, 0, 0]
    assert defined == [attacks, 0, 0]
    assert seen == [canvases, 0, 0]
    assert read == [images, 0, 0]
    assert again == [predictions, 0, 0]
    assert labelled == [0, 0, 0]
    assert aimed == [images * attacks, 0, 0]


def test_nothing_is_written(tiny_run: Finished) -> None:
    """The fixture compares every byte at the end of the session."""
    verified(tiny_run.output, 0, sample=0)


def rewritten(output: Path, path: str, change: Callable[[Rows], object]) -> None:
    """Changes rows as a cheat would, who knows how files are sealed."""
    rows: Rows = pq.ParquetFile(output / path).read().to_pylist()
    change(rows)
    (output / path).write_bytes(sealed(rows_table(path.partition("/")[0], rows)))


def brighter(row: dict[str, Any], levels: int, *, consistent: bool) -> None:
    """Adds to every value of a stored canvas."""
    pixels = np.asarray(Image.open(io.BytesIO(row["canvas"]))).astype(int) + levels
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    row["canvas"] = buffer.getvalue()
    if consistent:
        row["canvas_sha256"] = canvas_sha256(pixels.clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())


def repainted(row: dict[str, Any], mode: str, side: int = 224) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(row["canvas"])).convert(mode).resize((side, side)).save(buffer, "PNG")
    row["canvas"] = buffer.getvalue()


def other_class(row: dict[str, Any]) -> None:
    row["predicted"] = (row["predicted"] + 1) % 1000


CHANGES: dict[str, tuple[str, Callable[[Rows], object], list[str]]] = {
    "a row of attacks is gone": (ATTACKS, lambda rows: rows.pop(), ["attacks: 0 rows instead of 1 for attack pgd"]),
    "a prediction is gone": (
        PREDICTIONS,
        lambda rows: rows.pop(0),
        ["predictions: 0 rows instead of 1", "model lite0"],
    ),
    "an image is gone": (IMAGES, lambda rows: rows.pop(), ["images: 2 are known, the run was made of 3"]),
    "a prediction stands there twice": (PREDICTIONS, lambda rows: rows.append(rows[0]), ["predictions: 2 rows"]),
    "a canvas is gone": (CANVASES, lambda rows: rows.pop(), ["canvases: 0 rows instead of 1"]),
    "a clean canvas is gone": (CLEAN, lambda rows: rows.pop(), ["canvases: 0 rows instead of 1 for attack none"]),
    "a canvas has other pixels": (
        CANVASES,
        lambda rows: brighter(rows[0], 1, consistent=False),
        ["after pgd: its pixels have another digest than its row says"],
    ),
    "a canvas is beyond its budget": (
        CANVASES,
        lambda rows: brighter(rows[0], 9, consistent=True),
        ["after pgd: its linf is 0.0", "beyond 0.015686"],
    ),
    "a canvas is grey": (
        CANVASES,
        lambda rows: repainted(rows[0], "L"),
        ["after pgd: it is no PNG of 224 × 224 pixels"],
    ),
    "a clean canvas is smaller": (
        CLEAN,
        lambda rows: repainted(rows[0], "RGB", 100),
        ["after none: it is no PNG of 224 × 224 pixels"],
    ),
    "a canvas is no picture": (CANVASES, lambda rows: rows[0].update(canvas=b"PNG"), ["it is no PNG of 224 × 224"]),
    "a distance is another": (ATTACKS, lambda rows: rows[0].update(l2=0.5), ["its l2 is", "not 0.500000"]),
    "a clean canvas is another": (
        CLEAN,
        lambda rows: brighter(rows[0], 9, consistent=True),
        ["becomes another canvas"],
    ),
    "an image has another label": (
        IMAGES,
        lambda rows: rows[0].update(label=rows[0]["label"] + 1),
        ["after none: predictions has another label", "after pgd: attacks has another label"],
    ),
    "an attack has failed after all": (
        ATTACKS,
        lambda rows: rows[0].update(success=not rows[0]["success"]),
        ["after pgd: success does not follow"],
    ),
    "a surrogate has said something else": (
        ATTACKS,
        lambda rows: rows[0].update(adversarial_confidence=rows[0]["adversarial_confidence"] / 2),
        ["after pgd: attacks has another answer of the surrogate"],
    ),
    "a surrogate has said something else of the clean image": (
        ATTACKS,
        lambda rows: rows[0].update(clean_predicted=(rows[0]["clean_predicted"] + 1) % 1000),
        ["after pgd: attacks has another answer of the surrogate"],
    ),
    **{
        f"another {key}": (
            ATTACKS,
            lambda rows, key=key, value=value: rows[0].update({key: value}),  # type: ignore[misc]
            [f"attacks.pgd: rows have another {key} than run.json"],
        )
        for key, value in {
            **{"recipe": "bim", "surrogates": ["lite1"], "fuse": "losses", "view": "ten-crop", "norm": "l2", "seed": 4},
            **{"through": "jpeg:quality=75", "objective": "logit", "eps": 4.1 / 255, "steps": 2, "forwards": 1000},
            **{"backwards": 1000},
        }.items()
    },
    "a prediction is right after all": (
        PREDICTIONS,
        lambda rows: rows[0].update(correct=not rows[0]["correct"]),
        ["after pgd: correct does not follow"],
    ),
    "a prediction is another": (
        PREDICTIONS,
        lambda rows: other_class(rows[0]),
        ["prediction", "pgd lite0 center none: made again, predicted"],
    ),
    "a confidence is another": (
        PREDICTIONS,
        lambda rows: rows[0].update(label_confidence=rows[0]["label_confidence"] + 0.01),
        ["label_confidence differs"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_found(change: str, tiny_run: Finished, tmp_path: Path) -> None:
    path, alter, words = CHANGES[change]
    output = tiny_run.copy(tmp_path / "run")
    rewritten(output, path, alter)
    said = verified(output, 3)
    assert [word for word in words if word not in said] == [], said


def test_every_column_that_says_how_is_compared(tiny_run: Finished) -> None:
    specs = load_experiment(str(tiny_run.experiment)).specs
    assert all(made_by(spec, 0).keys() == set(HOW) for spec in specs)


@pytest.mark.parametrize(
    ("key", "value"), [("eps", "8/255"), ("steps", 9), ("surrogates", ["lite1"]), ("view", "ten-crop")]
)
def test_a_definition_that_was_edited_is_found(key: str, value: Any, tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    record = json.loads((output / "run.json").read_text())
    record["definitions"]["attacks"]["pgd"][key] = value
    (output / "run.json").write_text(json.dumps(record))
    assert f"attacks.pgd: rows have another {key} than run.json" in verified(output, 3, sample=0)


def test_a_target_that_was_edited_is_found(tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    record = json.loads((output / "run.json").read_text())
    record["definitions"]["attacks"]["pgd"]["target"] = 3
    (output / "run.json").write_text(json.dumps(record))
    assert "after pgd: its target is None" in verified(output, 3, sample=0)


def test_a_definition_that_is_none_is_said(tiny_run: Finished, tmp_path: Path) -> None:
    """It may be that of a plug-in which this machine lacks."""
    output = tiny_run.copy(tmp_path / "run")
    record = json.loads((output / "run.json").read_text())
    record["definitions"]["attacks"]["pgd"] |= {"recipe": "theirs"}
    (output / "run.json").write_text(json.dumps(record))
    assert "attacks.pgd: what defines it cannot be read on this machine: " in verified(output, 0, sample=0)


def test_a_damaged_file_is_all_that_is_said(tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    damaged = bytearray((output / CANVASES).read_bytes())
    damaged[len(damaged) // 2] ^= 4
    (output / CANVASES).write_bytes(damaged)
    said = verified(output, 3)
    assert f"{CANVASES} is damaged" in said
    assert len(cases(said)) == 1


@pytest.mark.parametrize("path", [PREDICTIONS, CANVASES, ATTACKS])
def test_a_missing_part_is_named(path: str, tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    (output / path).unlink()
    assert f"{path} is missing" in verified(output, 3, sample=0)


def test_an_attack_and_a_look_that_failed_on_every_image_are_accounted_for(tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    store = Store(str(output))
    for part in [part for path in store.paths() if (part := part_of(path))]:
        attacked, looked = part.keys[:1] == ("pgd",), part.table == "predictions" and part.keys[0] == "mi"
        if attacked or looked:
            ids = [row["image_id"] for row in store.read(part).to_pylist()]
            rewritten(output, part.path, lambda rows: rows.clear())
            why = Part("failures", part.chunk, ("predict", *part.keys))
            if part.table == "attacks":
                why = Part("failures", part.chunk, ("attack", "pgd", *["none"] * 3))
            if looked or part.table == "attacks":
                store.publish(why, rows_table("failures", [failure_row(each, "E", "it failed") for each in ids]))
    verified(output, 0)


def test_a_reason_that_is_gone_is_missed(tiny_run: Finished, tmp_path: Path) -> None:
    """Of a prediction that could not be made."""
    output = tiny_run.copy(tmp_path / "run")
    rewritten(output, PREDICTIONS, lambda rows: rows.clear())
    assert "predictions: 0 rows instead of 1 for attack pgd, model lite0" in verified(output, 3, sample=0)


def test_two_images_of_one_name_are_accounted_for(tmp_path: Path) -> None:
    images = tmp_path / "images" / "king_penguin"
    images.mkdir(parents=True)
    shutil.copy(sample_files()[0], images / "one.jpg")
    shutil.copy(sample_files()[1], images / "one.jpeg")
    experiment = tiny(images={"folder": str(images.parent)}, attacks={}, defenses={})
    run(written(tmp_path, experiment), tmp_path / "run", code=3)
    verified(tmp_path / "run", 0)


def test_a_missing_device_is_said_before_anything_is_read(tiny_run: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = complaint(invoke("verify", tiny_run.output, "--device", "cuda"))
    assert "'cuda' is not available here; use auto or cpu; there is no GPU that torch sees" in said


def test_images_on_a_store_that_is_away_are_said_and_no_fault(
    tiny_run: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoppedError("s3://bucket: no credentials")

    monkeypatch.setattr("pipeline.verify.replay.read_image", away)
    said = verified(tiny_run.output, 0)
    assert "no credentials" in said
    assert "3 cases could not be checked, which the exit code does not count; the reasons are above" in said
    assert cases(said)["clean canvases, drawn at random, are what their images become"] == [0, 0, 3]


def test_what_is_not_on_this_machine_is_said_and_no_fault(tmp_path: Path) -> None:
    """Somebody else's run: neither the images nor the weights are where they were."""
    images = tmp_path / "images"
    images.mkdir()
    for file in sample_files()[:2]:
        shutil.copy(file, images)
    (images / "labels.csv").write_text("file,label\n" + "".join(f"{file.name},1\n" for file in images.glob("*.jpg")))
    weights = tmp_path / "weights.pth"
    shutil.copy(model_source("packaged/efficientnet-lite0").weights, weights)
    models = {"own": {"source": "packaged/efficientnet-lite0", "weights": str(weights)}}
    changes: dict[str, Any] = {"attacks": {}, "defenses": {}, "targets": ["own"], "models": models}
    experiment = tiny(images={"folder": str(images), "labels": "labels.csv"}, **changes)
    run(written(tmp_path, experiment), tmp_path / "run")
    shutil.rmtree(images)
    weights.unlink()
    said = verified(tmp_path / "run", 0)
    *_, read, again, _, _ = cases(said).values()
    assert read == [0, 0, 2] and again == [0, 0, 1]
    assert "No such file" in said and str(weights) in said
    assert "the experiment cannot be read on this machine" in said


def test_what_is_no_run_directory(tmp_path: Path) -> None:
    result = invoke("verify", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "run.json" in result.stderr


def test_the_real_command(tiny_run: Finished) -> None:
    done = command("verify", tiny_run.output, "--sample", "1")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "wrong" in done.stdout


def test_every_table_is_accounted_for() -> None:
    assert set(ACCOUNTS) == set(TABLES) - {"failures"}

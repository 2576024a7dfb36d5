"""What failed is tried again where the user asks, and then the tables are those of a run in which nothing failed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipeline.config.experiment import load_experiment
from pipeline.images.manifest import list_images
from pipeline.run.compaction import FEW, compact, take_apart
from tests.support.runs import Finished, contents, invoke, rows, run, sample_files, stamps, tiny, written
from transforms.data.chunks import Chunk, make_chunks
from transforms.rows.failures import failure_row
from transforms.rows.parts import GROUPS, Part, attacks_part, canvases_part, part_of, predictions_part
from transforms.rows.tables import rows_table
from transforms.storage.store import Store

pytestmark = pytest.mark.system

LOAD = Part("failures", 0, ("load", "none", "none", "none", "none"))
ATTACK = Part("failures", 0, ("attack", "pgd", "none", "none", "none"))
PREDICT = Part("failures", 0, ("predict", "pgd", "lite0", "center", "none"))


def depends(path: str, reason: Part) -> bool:
    """Whether rows of a part are not there when an image has failed for such a reason."""
    part = part_of(path)
    assert part is not None
    stage, attack, *_ = reason.keys
    if part.chunk != reason.chunk or part.table == "failures":
        return False
    if stage == "load":
        return True
    if stage == "attack":
        return attack in part.keys
    return path == predictions_part(0, *reason.keys[1:]).path


def fail(output: Path, reason: Part) -> str:
    """Makes a finished run look as if one of its images had failed; returns the image's id."""
    store = Store(str(output))
    image = str(rows(output, "images")[0]["image_id"])
    for path in sorted(stamps(output)):
        part = part_of(path)
        if part is not None and depends(path, reason):
            found = store.read(part)
            store.publish(part, found.filter(pc.not_equal(found["image_id"], image)))
    store.publish(reason, rows_table("failures", [failure_row(image, "ProcessDied", "it died")]))
    return image


@pytest.mark.parametrize("reason", [LOAD, ATTACK, PREDICT], ids=["load", "attack", "predict"])
def test_what_failed_is_tried_again_where_the_user_asks(reason: Part, tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    fail(output, reason)
    before = stamps(output)
    stage = reason.keys[0]
    others = [option for each in {"load", "attack", "predict"} - {stage} for option in ("--retry-failures", each)]
    run(tiny_run.experiment, output, code=3)
    run(tiny_run.experiment, output, *others, code=3)
    assert stamps(output) == before
    planned = invoke("plan", tiny_run.experiment, "--output", output, "--retry-failures", stage).stdout
    assert "made again, with all that depends on it: " in planned and "about 0 forward" not in planned
    assert stamps(output) == before
    run(tiny_run.experiment, output, "--retry-failures", stage)
    assert contents(output) == contents(tiny_run.output)
    after = stamps(output)
    others_parts = [path for path in before if not depends(path, reason) and not path.startswith("failures/")]
    assert [path for path in others_parts if after[path] != before[path]] == []
    run(tiny_run.experiment, output, "--retry-failures", "all")
    assert stamps(output) == after


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of one class, of which one is broken."""
    pictures = tmp_path / "pictures" / "n01440764"
    pictures.mkdir(parents=True)
    for number, file in enumerate(sample_files()[:3]):
        shutil.copy(file, pictures / f"{number}.jpg")
    (pictures / "1.jpg").write_bytes(b"no picture")
    return pictures.parent


def repair(folder: Path) -> None:
    shutil.copy(sample_files()[1], folder / "n01440764" / "1.jpg")


def test_a_repaired_image_is_taken_up(folder: Path, tmp_path: Path) -> None:
    """And one that is still broken costs nothing."""
    experiment = written(tmp_path, tiny(images={"imagenet": str(folder)}))
    output = tmp_path / "run"
    run(experiment, output, code=3)
    before = stamps(output)
    run(experiment, output, "--retry-failures", "all", code=3)
    assert stamps(output) == before
    repair(folder)
    run(experiment, output, code=3)
    assert stamps(output) == before
    run(experiment, output, "--retry-failures", "load")
    run(experiment, tmp_path / "undisturbed")
    assert contents(output) == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1")], ids=["deleted", "damaged"])
@pytest.mark.parametrize("table", ["images", "failures"])
def test_rows_that_come_back_are_looked_at(
    table: str, damage: Callable[[Path], object], folder: Path, tmp_path: Path
) -> None:
    """The reason for a failure is lost, and its image is well by now: what depends on it is made again."""
    experiment = written(tmp_path, tiny(images={"imagenet": str(folder)}))
    output = tmp_path / "run"
    run(experiment, output, code=3)
    repair(folder)
    damage(output / (LOAD.path if table == "failures" else "images/chunk-00000.parquet"))
    run(experiment, output)
    run(experiment, tmp_path / "undisturbed")
    assert contents(output) == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("lost", [ATTACK.path, "attacks/attack=pgd/chunk-00000.parquet"], ids=["reason", "rows"])
def test_attacks_that_come_back_are_looked_at(lost: str, tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    fail(output, ATTACK)
    (output / lost).unlink()
    run(tiny_run.experiment, output)
    assert contents(output) == contents(tiny_run.output)


@pytest.mark.parametrize("lost", [LOAD.path, ATTACK.path])
def test_where_nobody_failed_nothing_else_is_made_again(lost: str, tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    before = stamps(output)
    (output / lost).write_bytes(b"PAR1")
    run(tiny_run.experiment, output)
    after = stamps(output)
    assert contents(output) == contents(tiny_run.output)
    assert {path for path in after if after[path] != before[path]} == {lost}


def test_what_was_half_done_is_no_news(tiny_run: Finished, tmp_path: Path) -> None:
    """A run that was killed in the middle of a task simply goes on."""
    output = tiny_run.copy(tmp_path / "run")
    for path in stamps(output).keys() - {LOAD.path}:
        (output / path).unlink()
    planned = invoke("plan", tiny_run.experiment, "--output", output)
    assert planned.exit_code == 0 and "made again" not in planned.stdout


def test_a_reason_for_nothing_goes(tiny_run: Finished, tmp_path: Path) -> None:
    """A prediction that is made again succeeds, and must not be called a failure."""
    output = tiny_run.copy(tmp_path / "run")
    fail(output, PREDICT)
    (output / predictions_part(0, *PREDICT.keys[1:]).path).unlink()
    run(tiny_run.experiment, output)
    assert contents(output) == contents(tiny_run.output)


# --- in a large run


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of seventeen chunks, all of them compacted: eight kinds of part."""
    folder = tmp_path_factory.mktemp("compacted")
    images = {"samples": "foolbox", "select": [file.stem for file in sample_files()[: FEW + 1]]}
    attacks = {"pgd": tiny()["attacks"]["pgd"]}
    experiment = written(folder, tiny(images=images, chunk_size=1, attacks=attacks, defenses={}))
    result = run(experiment, folder / "run")
    return Finished(experiment, folder / "run", result.output)


def chunks_of(experiment: Path) -> tuple[Chunk, ...]:
    loaded = load_experiment(str(experiment))
    return make_chunks(list_images(loaded.images, loaded.seed).refs, loaded.chunk_size)


def test_taking_apart_is_compaction_undone(compacted: Finished, tmp_path: Path) -> None:
    output = compacted.copy(tmp_path / "run")
    store = Store(str(output))
    groups = [path for path in stamps(output) if part_of(path) is None]
    assert len(groups) > len(GROUPS)
    take_apart(store, groups, chunks_of(compacted.experiment))
    apart = contents(output)
    assert len(apart) == 8 * (FEW + 1) and all(map(part_of, apart))
    compact(store, set(apart), FEW + 1, "run")
    assert contents(output) == contents(compacted.output)


def test_one_image_of_a_compacted_run_is_tried_again(compacted: Finished, tmp_path: Path) -> None:
    output = compacted.copy(tmp_path / "run")
    store = Store(str(output))
    reason = Part("failures", 5, ("attack", "pgd", "none", "none", "none"))
    image = chunks_of(compacted.experiment)[5].refs[0].image_id
    for part in (
        attacks_part(5, "pgd"),
        canvases_part(5, "pgd"),
        predictions_part(5, "pgd", "lite0", "center", "none"),
    ):
        take_apart(store, [part.compacted], chunks_of(compacted.experiment))
        found = store.read(part)
        store.publish(part, found.filter(pc.not_equal(found["image_id"], image)))
    take_apart(store, [reason.compacted], chunks_of(compacted.experiment))
    store.publish(reason, rows_table("failures", [failure_row(image, "ProcessDied", "it died")]))
    compact(store, set(stamps(output)), FEW + 1, "run")
    assert len(rows(output, "attacks")) == FEW
    run(compacted.experiment, output, "--retry-failures", "all")
    assert contents(output) == contents(compacted.output)

"""A run grows: more images come to a run directory, and what is there stays as it is."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.experiment import load_experiment
from pipeline.run import execute
from pipeline.run.prepare import prepare
from pipeline.run.runners import runner_options
from tests.run.test_again import ATTACK, fail
from tests.support.runs import Json, contents, invoke, refused, rows, run, sample_files, stamps, tiny, written
from transforms.rows.parts import attacks_part

pytestmark = pytest.mark.system

NAMES = [file.stem for file in sample_files()]
TABLES = ("images", "attacks", "canvases", "predictions", "failures")


def experiment(folder: Path, images: list[str], **changes: object) -> Path:
    return written(folder, tiny(images={"samples": "foolbox", "select": images}, **changes), f"{len(images)}.yaml")


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A run of three images in two chunks to which two more have come, before, between and after them."""
    output = tmp_path / "run"
    run(experiment(tmp_path, NAMES[1:6:2]), output)
    before = stamps(output)
    larger = experiment(tmp_path, NAMES[0:2] + NAMES[3:6:2] + NAMES[7:8])
    planned = invoke("plan", larger, "--output", output)
    assert "has 3 images; 2 more come to it" in planned.stderr
    assert stamps(output) == before
    run(larger, output)
    after = stamps(output)
    assert {path: after[path] for path in before} == before
    yield larger, output


def test_what_is_there_stays_and_rows_are_those_of_one_run(grown: tuple[Path, Path], tmp_path: Path) -> None:
    larger, output = grown
    run(larger, tmp_path / "at-once")
    for table in TABLES:
        assert rows(output, table) == rows(tmp_path / "at-once", table)
    after = stamps(output)
    assert "about 0 forward" in invoke("plan", larger, "--output", output).stdout
    run(larger, output)
    assert stamps(output) == after
    checked = invoke("verify", output)
    assert checked.exit_code == 0, checked.stdout


def test_it_grows_again_and_damage_is_mended(grown: tuple[Path, Path], tmp_path: Path) -> None:
    _, output = grown
    largest = experiment(tmp_path, NAMES[:8])
    run(largest, output)
    made = contents(output)
    assert len(rows(output, "images")) == 8
    for path in sorted(made)[::3]:
        (output / path).unlink()
    run(largest, output)
    assert contents(output) == made


def test_fewer_images_or_others_are_refused(grown: tuple[Path, Path], tmp_path: Path) -> None:
    larger, output = grown
    made = contents(output)
    for images in (NAMES[1:6:2], NAMES[8:14]):
        assert "was made with 5; the " in refused(experiment(tmp_path, images), output)
    manifest = output / "manifest.json"
    for damaged in ("", "[[", manifest.read_text().replace(NAMES[1], NAMES[9])):
        manifest.write_text(damaged)
        assert "which says which images came first, is gone or damaged" in refused(larger, output)
    assert contents(output) == made


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 17 chunks, whose files hold the rows of all of them."""
    folder = tmp_path_factory.mktemp("compacted")
    run(experiment(folder, NAMES[:17], chunk_size=1), folder / "run")
    return folder / "run"


@pytest.mark.parametrize("killed_at", ["take_apart", "write_record", "write_manifest", ""])
def test_compacted_files_are_filled_up(
    killed_at: str, compacted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run was killed after taking them apart, or after writing down what comes."""
    output = tmp_path / "run"
    shutil.copytree(compacted, output)
    larger = experiment(tmp_path, NAMES, chunk_size=1)
    if killed_at:
        does = getattr(execute, killed_at)

        def dies(*arguments: object) -> None:
            does(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(execute, killed_at, dies)
        assert invoke("plan", larger, "--output", output).exit_code == 0
        with pytest.raises(KeyboardInterrupt):
            execute_in_this_process(larger, output)
        monkeypatch.setattr(execute, killed_at, does)
        if killed_at == "take_apart":
            run(experiment(tmp_path, NAMES[:17], chunk_size=1), output)
            assert contents(output) == contents(compacted)
    run(larger, output)
    assert len(list(output.rglob("chunk-*.parquet"))) == 0
    fresh = tmp_path / "fresh"
    run(larger, fresh)
    for table in TABLES:
        assert rows(output, table) == rows(fresh, table)


def execute_in_this_process(experiment_file: Path, output: Path) -> None:
    """As `megalith run` does, but for catching what ends it."""
    options = runner_options("direct", ["--direct_num_workers=1"])
    prepared = prepare(load_experiment(str(experiment_file), []), str(output))
    execute.execute(prepared, options, "auto", lambda _: None, lambda _: None)


def test_images_that_are_mixed_in_stay_the_same(tmp_path: Path) -> None:
    admix = {"recipe": "admix", "surrogates": ["lite0"], "eps": "4/255", "steps": 1, "mixed_images": 1, "scales": 2}
    attacks: Json = {"admix": admix}
    output = tmp_path / "run"
    run(experiment(tmp_path, NAMES[:3], attacks=attacks), output)
    before = contents(output)
    larger = experiment(tmp_path, NAMES[:6], attacks=attacks)
    run(larger, output)
    (output / attacks_part(0, "admix").path).unlink()
    run(larger, output)
    assert {path: content for path, content in contents(output).items() if path in before} == before


def test_shards_may_grow_a_run(tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(experiment(tmp_path, NAMES[:3]), output)
    before = stamps(output)
    larger = experiment(tmp_path, NAMES[:7])
    for share in ("1/2", "2/2"):
        run(larger, output, "--shard", share)
    run(larger, tmp_path / "at-once")
    assert {path: stamp for path, stamp in stamps(output).items() if path in before} == before
    for table in TABLES:
        assert rows(output, table) == rows(tmp_path / "at-once", table)
    counted = json.loads((output / "run.json").read_text())["definitions"]["images"]
    assert [each["count"] for each in counted["segments"]] == [3, 4]


def test_what_failed_is_tried_again_while_it_grows(tmp_path: Path) -> None:
    output = tmp_path / "run"
    small, larger = (experiment(tmp_path, NAMES[:count]) for count in (3, 5))
    run(small, output)
    made = contents(output)
    fail(output, ATTACK)
    run(larger, output, "--retry-failures", "attack")
    assert {path: content for path, content in contents(output).items() if path in made} == made

"""Many small parts become few files at the end of a large run, and no reader sees a row twice or not at all."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.results.tables import open_run
from pipeline.run.compaction import FEW, compact
from tests.run.test_resume import DIES_BEFORE_RENAMING
from tests.support.preforked import start
from tests.support.runs import contents, everything, invoke, rows, run, sample_files, stamps, tiny, written
from transforms.rows.canvases import canvas_table
from transforms.rows.parts import GROUPS, Part, attacks_part, canvases_part, superseded
from transforms.rows.tables import TABLES, rows_table
from transforms.storage.seal import sealed
from transforms.storage.store import Store

pytestmark = pytest.mark.system


def attack_row(number: int) -> dict[str, Any]:
    """A row of `attacks` that is nobody's."""
    row: dict[str, Any] = {field.name: None for field in TABLES["attacks"].columns}
    words = ("recipe", "view", "through", "norm", "canvas_sha256")
    numbers = [field.name for field in TABLES["attacks"].columns if not field.nullable and field.name not in words]
    return {
        **row,
        **dict.fromkeys(numbers, 0),
        **dict.fromkeys(words, "x"),
        "image_id": f"i{number:05d}",
        "surrogates": ["m"],
        "success": True,
    }


def publish(store: Store, chunks: int) -> None:
    for chunk in range(chunks):
        store.publish(attacks_part(chunk, "a"), rows_table("attacks", [attack_row(chunk)]))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def names(store: Store) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in store.paths())


def ids(store: Store) -> list[str]:
    """As a reader finds them who knows the rules."""
    paths = sorted(store.paths() - superseded(store.paths()))
    return [row["image_id"] for path in paths for row in pq.ParquetFile(f"{store.root}/{path}").read().to_pylist()]


def test_groups_are_by_number_and_rows_in_order(store: Store) -> None:
    chunks = 2 * GROUPS["attacks"] + 3
    publish(store, chunks)
    compact(store, store.paths(), chunks, "run")
    assert names(store) == [f"group-{number:05d}.parquet" for number in range(3)]
    assert ids(store) == [f"i{number:05d}" for number in range(chunks)]
    assert all(store.has(attacks_part(chunk, "a")) for chunk in range(chunks))


def test_a_small_run_is_left_as_it_is(store: Store) -> None:
    publish(store, FEW)
    compact(store, store.paths(), FEW, "run")
    assert names(store) == [f"chunk-{number:05d}.parquet" for number in range(FEW)]


def test_a_group_that_is_not_full_waits(store: Store) -> None:
    """As where an experiment of before left something undone."""
    publish(store, FEW + 4)
    store.delete([attacks_part(5, "a").path])
    before = names(store)
    compact(store, store.paths(), FEW + 4, "run")
    assert names(store) == before


def test_first_chunks_that_an_earlier_version_compacted_are_taken_in(store: Store) -> None:
    """As where a run of several rounds was stopped."""
    chunks = 40
    publish(store, chunks)
    at_once = Store(f"{store.root}-2")
    publish(at_once, chunks)
    compact(at_once, at_once.paths(), chunks, "run")
    old = attacks_part(0, "a").begun[1]
    assert old == "attacks/attack=a/chunks-00000-00031.parquet"
    store.publish_bytes(old, sealed(pa.concat_tables([store.read(attacks_part(chunk, "a")) for chunk in range(32)])))
    store.delete([attacks_part(chunk, "a").path for chunk in range(30)])
    assert superseded(store.paths()) == {attacks_part(chunk, "a").path for chunk in (30, 31)}
    assert sorted(ids(store)) == ids(at_once)
    assert [store.has(attacks_part(chunk, "a")) for chunk in (0, 31, 32)] == [True] * 3
    compact(store, store.paths(), chunks, "run")
    assert contents(Path(store.root)) == contents(Path(at_once.root))


def dies_after(moment: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Does work, and is killed before so many files have got or lost their names, or at its end."""
    steps = iter(range(moment))

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def dies(*arguments: Any, **named: Any) -> Any:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return step(*arguments, **named)

        return dies

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "publish_bytes", counted(Store.publish_bytes))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        work()
        raise KeyboardInterrupt  # it had ended


def publish_canvases(store: Store, chunks: int) -> dict[int, pa.Table]:
    """Of two images to a chunk, but none in every third, as where they were unreadable."""
    draws, tables = np.random.default_rng(1), {}
    for chunk in range(chunks):
        images = [f"i{chunk}-{number}" for number in range(2 if chunk % 3 else 0)]
        tables[chunk] = canvas_table(images, list(draws.integers(0, 256, (len(images), 3, 32, 32), np.uint8)))
        store.publish(canvases_part(chunk, "none"), tables[chunk])
    return tables


def test_gathered_canvases_are_read_by_chunk(store: Store) -> None:
    chunks = GROUPS["canvases"] + 3
    tables = publish_canvases(store, chunks)
    compact(store, store.paths(), chunks, "run")
    assert names(store) == ["group-00000.parquet", "group-00001.parquet"]
    for chunk, table in tables.items():
        assert store.read(canvases_part(chunk, "none")).equals(table)
    assert ids(store) == [row["image_id"] for table in tables.values() for row in table.to_pylist()]


def test_of_gathered_canvases_no_damaged_byte_is_believed(store: Store) -> None:
    """In the rows that are read; the others are not looked at."""
    tables = publish_canvases(store, FEW + 1)
    compact(store, store.paths(), FEW + 1, "run")
    path = Path(store.root, canvases_part(1, "none").compacted)
    whole, wrong = path.read_bytes(), 0
    for place in [*range(4, len(whole) - 12000, 307), *range(len(whole) - 12000, len(whole), 13)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert store.read(canvases_part(1, "none")).equals(tables[1])
        except OSError as error:
            wrong += 1
            assert str(error) == f"{path} is damaged; the same command makes it again"
    assert wrong >= 2 * 3 * 32 * 32 // 307  # noise is as many bytes as it has values
    path.unlink()
    with pytest.raises(FileNotFoundError, match="chunk-00001"):
        store.read(canvases_part(1, "none"))


@pytest.mark.parametrize("moment", range(FEW + 6))
def test_killed_at_any_moment_no_row_is_lost_or_seen_twice(
    moment: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the group has its name, and between any two parts that go."""
    publish(store, FEW + 4)
    expected = ids(store)
    dies_after(moment, monkeypatch, lambda: compact(store, store.paths(), FEW + 4, "run"))
    assert ids(store) == expected
    compact(store, store.paths(), FEW + 4, "run")
    assert names(store) == ["group-00000.parquet"]
    assert ids(store) == expected


def test_twice_is_as_good_as_once(store: Store) -> None:
    publish(store, FEW + 1)
    compact(store, store.paths(), FEW + 1, "run")
    before = {path: store.read_bytes(path) for path in store.paths()}
    compact(store, store.paths(), FEW + 1, "run")
    assert {path: store.read_bytes(path) for path in store.paths()} == before


def test_a_part_of_a_path_and_back() -> None:
    part = Part("predictions", 7, ("a b", "m/1", "center", "jpeg:quality=75"))
    assert superseded([part.path, part.compacted]) == {part.path}
    assert superseded([part.path, Part("predictions", 7, ("a", "m", "center", "none")).compacted]) == set()


# --- a real run


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Eighteen chunks of one image; the experiment and its finished run."""
    folder = tmp_path_factory.mktemp("large")
    attacks = {"fgsm": {"recipe": "fgsm", "surrogates": ["lite0"], "eps": "4/255"}}
    images = {"samples": "foolbox", "select": [file.stem for file in sample_files()[: FEW + 2]]}
    experiment = written(folder, tiny(chunk_size=1, images=images, attacks=attacks, defenses={}))
    run(experiment, folder / "run")
    return experiment, folder / "run"


def test_a_large_run_ends_with_few_files(large: tuple[Path, Path]) -> None:
    _, output = large
    tables = {table: {path.name for path in (output / table).rglob("*.parquet")} for table in TABLES}
    canvases = tables.pop("canvases")
    assert set(map(frozenset, tables.values())) == {frozenset({"group-00000.parquet"})}
    assert canvases == {"group-00000.parquet", "group-00001.parquet"}
    assert len(rows(output, "predictions")) == 2 * (FEW + 2)
    assert len(open_run(str(output)).predictions) == 2 * (FEW + 2)


def test_it_is_complete_and_can_be_verified(large: tuple[Path, Path]) -> None:
    experiment, output = large
    assert "to do: about 0 forward and 0 backward passes" in invoke("plan", experiment, "--output", output).stdout
    verified = invoke("verify", output, "--sample", "2")
    assert verified.exit_code == 0, verified.stdout


@pytest.mark.parametrize("where", ["predictions/attack=fgsm/*/*/*", "canvases/attack=fgsm"])
def test_a_damaged_group_is_made_again(where: str, large: tuple[Path, Path]) -> None:
    """Byte for byte, and the others are left alone."""
    experiment, output = large
    group = next(output.glob(f"{where}/group-00000.parquet"))
    whole, before = group.read_bytes(), stamps(output)
    group.write_bytes(whole[:-20])
    run(experiment, output)
    assert group.read_bytes() == whole
    name = group.relative_to(output).as_posix()
    assert {**stamps(output), name: 0} == {**before, name: 0}


def test_a_defence_more_looks_at_gathered_canvases(large: tuple[Path, Path], tmp_path: Path) -> None:
    """And sees what it sees where nothing had been compacted before."""
    experiment, finished = large
    more = ("--set", "defenses.jpeg.quality=[75]")
    output, fresh = tmp_path / "run", tmp_path / "fresh"
    shutil.copytree(finished, output)
    run(experiment, output, *more)
    run(experiment, fresh, *more)
    assert contents(output) == contents(fresh)


def test_canvases_that_are_not_kept_are_not_gathered_either(large: tuple[Path, Path], tmp_path: Path) -> None:
    experiment, finished = large
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    run(experiment, output, "--set", "keep_canvases=false")
    assert {path.parent.name for path in (output / "canvases").rglob("*.parquet")} == {"attack=none"}
    assert len(open_run(str(output)).attacks) == FEW + 2


def test_killed_while_parts_are_gathered_the_same_command_goes_on(large: tuple[Path, Path], tmp_path: Path) -> None:
    """One group has its name and its parts have gone, of the next nothing has its name yet."""
    experiment, finished = large
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    first, second = sorted((output / "predictions").rglob("group-00000.parquet"))
    first.unlink()
    second.unlink()
    arguments = ["run", experiment, "--output", output, "--direct_num_workers=1", second]
    process = start(tmp_path / "log", *arguments, program=DIES_BEFORE_RENAMING)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log" / "stderr").read_text()
    assert [len(list(each.parent.glob("[cg]*.parquet"))) for each in (first, second)] == [1, FEW + 2]
    assert first.exists() and not second.exists()
    assert len(open_run(str(output)).predictions) == 2 * (FEW + 2)
    run(experiment, output)
    assert contents(output) == contents(finished)
    assert everything(output).keys() == everything(finished).keys()

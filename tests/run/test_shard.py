"""Shards: several processes at once compute one run, and its tables are those of a single process."""

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.config.experiment import load_experiment
from pipeline.run.lock import LOCK, lock, shard_lock
from pipeline.run.plan import Tasks
from pipeline.run.shard import Shard
from tests.support.preforked import Process, start
from tests.support.runs import (
    Finished,
    complaint,
    contents,
    costs,
    invoke,
    refused,
    run,
    sample_files,
    stamps,
    tiny,
    written,
)
from transforms.data.chunks import Chunk, ImageRef
from transforms.errors import InputError
from transforms.rows.failures import failure_row
from transforms.rows.parts import Part, images_part, predictions_part
from transforms.rows.tables import rows_table
from transforms.storage.store import Store


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "-1/3", "1/0", "1/3/5", "1.5/3", "a/b", "1/3\n", "²/3"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--shard: .* is no share; give K/N"):
        Shard.parse(text)


@pytest.mark.parametrize("of", [1, 2, 3, 7, 20])
def test_each_chunk_is_of_one_shard(of: int, tmp_path: Path) -> None:
    experiment = load_experiment(str(written(tmp_path, tiny())))
    chunks = [Chunk(number, (ImageRef(f"{number}", "nowhere", 0),)) for number in range(11)]
    shards = [Shard.parse(f"{number}/{of}") for number in range(1, of + 1)]
    tasks = [list(Tasks.every(experiment, chunks, shard)) for shard in shards]
    all_of_them = Counter(task for each in tasks for task in each)
    assert all_of_them == Counter(Tasks.every(experiment, chunks))
    for shard, own in zip(shards, tasks, strict=True):
        assert {task.chunk for task in own} == {chunk.index for chunk in chunks[shard.slice]}
        assert all(shard.may_read(part.path) for task in own for part in task.parts)
        others = {part.path for each in tasks if each is not own for task in each for part in task.parts}
        assert not any(map(shard.may_read, others))


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """A run of twenty chunks by a single process, which are compacted at its end."""
    folder = tmp_path_factory.mktemp("twenty")
    files = sample_files()
    images = {"samples": "foolbox", "select": [file.stem for file in files]}
    experiment = written(folder, tiny(chunk_size=1, images=images))
    summary = run(experiment, folder / "run").stdout
    assert len(costs(folder / "run")) == 1
    yield Finished(experiment, folder / "run", summary)


def _shard(log: Path, twenty: Finished, output: Path, share: str) -> Process:
    return start(log, "run", twenty.experiment, "--output", output, "--shard", share, "--direct_num_workers=1")


@pytest.mark.system
def test_three_at_once_some_of_them_killed_give_the_tables_of_one(twenty: Finished, tmp_path: Path) -> None:
    """Killed at random moments, they are begun again, as schedulers do."""
    moments = random.Random()  # noqa: S311 - others each time
    output = tmp_path / "run"
    at_work = {number: _shard(tmp_path / f"log-{number}", twenty, output, f"{number}/3") for number in (1, 2, 3)}
    kills, summaries = 6, []
    while at_work:
        time.sleep(moments.uniform(0.1, 0.6))
        number = moments.choice([*at_work])
        process = at_work[number]
        if kills:
            kills -= 1
            with suppress(ProcessLookupError):
                process.kill(signal.SIGKILL)
        code = process.poll()
        if code == -signal.SIGKILL:
            at_work[number] = _shard(tmp_path / f"log-{number}", twenty, output, f"{number}/3")
        elif code is not None:
            assert code == 0, process.stderr
            summaries.append(process.stdout)
            del at_work[number]
    assert contents(output) == contents(twenty.output)
    assert [path.name for path in output.glob(f"{LOCK}.*")] == []
    assert ["The tables are Parquet files" in each for each in summaries].count(True) == 1


@pytest.mark.system
def test_one_after_the_other_the_last_one_finishes(twenty: Finished, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(twenty.experiment, output, "--shard", "2/2")
    planned = invoke("plan", twenty.experiment, "--output", output, "--shard", "1/2").stdout
    assert "tiny, shard 1/2: 10 images in 10 chunks" in planned
    half = stamps(output)
    last = run(twenty.experiment, output, "--shard", "1/2").stdout
    assert "The tables are Parquet files" in last
    assert half.keys() & contents(output).keys() == set()  # compacted
    assert contents(output) == contents(twenty.output)
    assert [cost["load"] for cost in costs(output)] == [10, 10]


@pytest.mark.system
def test_a_shard_leaves_the_rows_of_others_alone(twenty: Finished, tmp_path: Path) -> None:
    """Even if they are damaged, or failures that are to be retried; and it makes its own again."""
    output = tmp_path / "run"
    for share in ("1/3", "2/3"):
        said = run(twenty.experiment, output, "--shard", share).stdout
        assert f"shard {share} is done, and others are not" in said
    own, other = (output / predictions_part(chunk, "mi", "lite0", "center", "none").path for chunk in (0, 1))
    for path in (own, other):
        path.write_bytes(b"")
    store, failed = Store(str(output)), Part("failures", 1, ("predict", "pgd", "lite0", "center", "none"))
    (image,) = store.read(images_part(1))["image_id"].to_pylist()
    store.publish(failed, rows_table("failures", [failure_row(image, "ProcessDied", "it died")]))
    store.publish(predictions_part(1, *failed.keys[1:]), rows_table("predictions", []))
    run(twenty.experiment, output, "--shard", "1/3", "--retry-failures", "all", code=3)
    assert own.read_bytes() and not other.read_bytes()
    assert (output / failed.path).exists()
    run(twenty.experiment, output, "--retry-failures", "all")
    assert contents(output) == contents(twenty.output)


@pytest.mark.system
def test_a_damaged_file_of_several_shards_is_left_to_a_whole_run(twenty: Finished, tmp_path: Path) -> None:
    output = twenty.copy(tmp_path / "run")
    damaged = min(path for path in output.rglob("group-*.parquet") if "predictions" in path.parts)
    damaged.write_bytes(b"")
    assert "holds rows of other shards" in refused(twenty.experiment, output, "--shard", "1/2")
    run(twenty.experiment, output)
    assert contents(output) == contents(twenty.output)


@pytest.mark.system
def test_a_whole_run_and_shards_exclude_each_other(
    twenty: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    store = Store(str(output))
    with lock(store, shard_lock(2, 3)):
        assert "shards 2/3 are at work" in refused(twenty.experiment, output)
        assert "shard 2/3 is at work" in refused(twenty.experiment, output, "--shard", "2/3")
        assert "others are not" in run(twenty.experiment, output, "--shard", "1/3").stdout
    monkeypatch.setattr("pipeline.run.lock.PATIENCE", 0.0)
    with lock(store):
        waited = invoke("run", twenty.experiment, "--output", output, "--shard", "2/3")
        assert waited.exit_code == 2
        assert [line for line in waited.stderr.splitlines() if "another run is at work" in line] != []


@pytest.mark.system
def test_shards_of_other_experiments_are_refused(twenty: Finished, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run(twenty.experiment, output, "--shard", "1/2")
    assert "attacks.mi.eps" in refused(twenty.experiment, output, "--shard", "2/2", "--set", "attacks.mi.eps=8/255")
    assert "is no share" in complaint(invoke("plan", twenty.experiment, "--output", output, "--shard", "3/2"))

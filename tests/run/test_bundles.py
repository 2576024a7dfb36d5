"""While a large run is at work, a chunk's rows stand in few files; its tables are those of a run with many."""

import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.results.tables import open_run
from pipeline.run import compaction, execute
from pipeline.run.compaction import FEW, compact
from tests.run.test_compaction import attack_row, dies_after
from tests.support.preforked import start
from tests.support.runs import contents, costs, invoke, rows, run, sample_files, stamps, tiny, written
from transforms.errors import InputError
from transforms.rows import parts as grammar
from transforms.rows.failures import failure_row
from transforms.rows.parts import Bundle, Part, attacks_part, file_of, predictions_part, superseded, table_file
from transforms.rows.tables import rows_table
from transforms.storage.store import Store

CHUNKS = FEW + 2
ATTACKS = ("a", "b", "c")
Held = set[tuple[int, str]]
"""Chunks and attacks of which rows are there."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"), bundles=True)


def table(chunk: int, attack: str) -> pa.Table:
    """Two rows of `attacks` that tell their chunk and attack."""
    return rows_table(
        "attacks", [{**attack_row(chunk), "image_id": f"{chunk} {number}", "recipe": attack} for number in (0, 1)]
    )


def bundle(store: Store, chunk: int, attacks: Collection[str] = ATTACKS) -> str:
    """Publishes a bundle, whatever else is there; returns its path."""
    store.publish_bundle("attacks", chunk, {(attack,): table(chunk, attack) for attack in attacks})
    return Bundle("attacks", chunk, tuple((attack,) for attack in attacks)).path


def publish(store: Store, chunk: int, attack: str) -> str:
    part = attacks_part(chunk, attack)
    store.publish(part, table(chunk, attack))
    return part.path


def seen(store: Store) -> Counter[tuple[int, str]]:
    """The rows that a reader sees who knows the rules, by chunk and attack."""
    found: Counter[tuple[int, str]] = Counter()
    for path in store.paths() - superseded(store.paths()):
        for row in pq.ParquetFile(f"{store.root}/{path}").read().to_pylist():
            found[int(row["image_id"].split()[0]), row["recipe"]] += 1
    return found


EVERY = Counter({(chunk, attack): 2 for chunk in range(CHUNKS) for attack in ATTACKS})


@pytest.fixture
def forget() -> Iterator[Callable[[], None]]:
    """Makes this process a new one, which has seen no bundles."""

    def forgets() -> None:
        grammar._BUNDLES.clear()
        grammar._BUNDLES_WITH.clear()
        grammar._digest.cache_clear()

    forgets()
    yield forgets


def test_a_bundle_holds_parts_and_says_which(store: Store, forget: Callable[[], None]) -> None:
    path = bundle(store, 3)
    assert re.fullmatch(r"attacks/chunk-00003\.[0-9a-f]{16}\.parquet", path)
    forget()
    assert table_file(path) is None
    fresh = Store(store.root, bundles=True)
    assert [fresh.has(attacks_part(*each)) for each in ((3, "b"), (3, "d"), (4, "b"))] == [True, False, False]
    file = table_file(path)
    assert file and file.parts == tuple(attacks_part(3, attack) for attack in ATTACKS)
    assert file_of(attacks_part(3, "c"), fresh.paths()) == path
    assert fresh.by_keys(path) == {(attack,): table(3, attack) for attack in ATTACKS}
    assert [row["attack"] for row in pq.ParquetFile(f"{store.root}/{path}").read().to_pylist()] == list("aabbcc")


def test_names_of_others_and_footers_that_lie_are_nothing(store: Store, forget: Callable[[], None]) -> None:
    path = bundle(store, 3)
    content = Path(store.root, path).read_bytes()
    forget()
    strange = (
        "attacks/chunk-00003.0123456789abcdef.parquet",  # another digest
        f"attacks/attack=a/{path.rpartition('/')[2]}",  # another folder
        path.replace("attacks/", "images/"),
        path.replace(".parquet", " (1).parquet"),
    )
    for each in strange:
        store.publish_bytes(each, content)
    found = store.paths()
    assert {each for each in found if table_file(each)} == {path}
    for held in ([], [["a"], ["a"]], [["b"], ["a"]], [["a", "b"]], [[1]], ["a"], {"a": 1}, None, [[""]]):
        grammar.learn(path, held)
    assert len(grammar._BUNDLES) == 1
    store.delete(strange)
    Path(store.root, path).write_bytes(b"PAR1 no footer")
    forget()
    assert Store(store.root).paths() == {path}
    assert table_file(path) is None


def test_what_comes_later_joins_what_is_there(store: Store) -> None:
    parts = {attack: attacks_part(3, attack) for attack in ATTACKS}
    for attack in ("a", "b"):
        publish(store, 3, attack)
    store.gather(list(parts.values()))
    assert [(file := table_file(path)) and file.keys for path in store.paths()] == [(("a",), ("b",))]
    assert store.has(parts["b"]) and not store.has(parts["c"])
    store.bundle({parts["c"]: table(3, "c")})
    (path,) = store.paths()
    before = stamps(Path(store.root))
    assert store.has(parts["c"]) and store.by_keys(path).keys() == {("a",), ("b",), ("c",)}
    store.gather(list(parts.values()))
    assert stamps(Path(store.root)) == before


@pytest.mark.parametrize(
    ("others", "gone"),
    [
        ([], []),
        ([("part", "a")], ["part a"]),  # killed while parts were gathered
        ([("part", "a"), ("part", "b"), ("part", "c")], ["bundle abc"]),  # the same, before any part went
        ([("bundle", "ab")], ["bundle ab"]),  # killed while another joined
        ([("bundle", "ab"), ("part", "c")], ["bundle abc"]),  # killed when compacted, some left over
        ([("bundle", "cd")], ["bundle cd"]),  # made by two at once
        ([("bundle", "d"), ("part", "a")], ["part a"]),
    ],
)
def test_of_what_is_there_twice_one_goes(others: list[tuple[str, str]], gone: list[str], store: Store) -> None:
    paths = {"bundle abc": bundle(store, 3)}
    for kind, attacks in others:
        paths[f"{kind} {attacks}"] = publish(store, 3, attacks) if kind == "part" else bundle(store, 3, attacks)
    publish(store, 4, "a")
    assert superseded(store.paths()) == {paths[each] for each in gone}
    assert set(seen(store).values()) == {2}


def test_bundles_are_compacted_as_parts_are(store: Store) -> None:
    as_parts = Store(f"{store.root}-parts")
    for chunk, attack in EVERY:
        publish(as_parts, chunk, attack)
    for chunk in range(CHUNKS):
        mixed = [ATTACKS, ATTACKS[:2], ATTACKS[1:]][chunk % 3]
        bundle(store, chunk, mixed)
        for attack in set(ATTACKS) - set(mixed):
            publish(store, chunk, attack)
    for each in (store, as_parts):
        assert seen(each) == EVERY
        compact(each, each.paths(), CHUNKS, "run")
    assert contents(Path(store.root)) == contents(Path(as_parts.root))


def test_in_little_memory_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in range(CHUNKS):
        bundle(store, chunk)
    monkeypatch.setattr(compaction, "_MEMORY", 1)
    compact(store, store.paths(), CHUNKS, "run")
    assert store.paths() == {attacks_part(0, attack).compacted for attack in ATTACKS}
    assert seen(store) == EVERY


def test_what_is_not_done_for_all_chunks_stays_bundled(store: Store) -> None:
    """As what an experiment of before has begun."""
    for chunk in range(CHUNKS):
        bundle(store, chunk, [*ATTACKS, "x", "y"] if chunk < 5 else ATTACKS)
    expected = seen(store)
    compact(store, store.paths(), CHUNKS, "run")
    assert seen(store) == expected
    left = {Bundle("attacks", chunk, (("x",), ("y",))).path for chunk in range(5)}
    assert store.paths() == {attacks_part(0, attack).compacted for attack in ATTACKS} | left


@pytest.mark.parametrize("moment", range(CHUNKS + 11))
def test_killed_while_bundles_are_compacted_no_row_is_lost_or_seen_twice(
    moment: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of them hold what stays, a part is left beside others."""
    for chunk in range(CHUNKS):
        bundle(store, chunk, [*ATTACKS, "x", "y"] if chunk < 3 else ATTACKS)
    publish(store, 7, "b")
    expected = seen(store)
    dies_after(moment, monkeypatch, lambda: compact(store, store.paths(), CHUNKS, "run"))
    assert seen(store) == expected
    compact(store, store.paths(), CHUNKS, "run")
    assert seen(store) == expected
    assert len(store.paths()) == len(ATTACKS) + 3


# --- real runs

ONE_BY_ONE = 10**6


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty chunks of one image, two attacks of which one wants another class of each image, a defence."""
    images = {"samples": "foolbox", "select": [file.stem for file in sample_files()]}
    known = tiny(chunk_size=1, images=images)
    known["attacks"]["mi"]["target"] = "random"
    return written(tmp_path_factory.mktemp("bundles"), known)


@pytest.fixture(scope="module")
def one_by_one(experiment: Path) -> Path:
    """The finished run without bundles."""
    run(experiment, experiment.parent / "run")
    return experiment.parent / "run"


@pytest.fixture(scope="module")
def at_work(experiment: Path) -> Path:
    """A run with bundles, as it is when all is computed and nothing is compacted yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "MOST_FILES", 1)
        patch.setattr(execute, "compact", lambda *_: None)
        run(experiment, experiment.parent / "at-work")
    return experiment.parent / "at-work"


@pytest.fixture
def output(at_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; what runs in it has bundles, too."""
    monkeypatch.setattr(execute, "MOST_FILES", 1)
    shutil.copytree(at_work, tmp_path / "run")
    return tmp_path / "run"


def test_a_chunk_has_few_files(at_work: Path) -> None:
    """Images and two kinds of failures, canvases and predictions of each attack and of clean images, and attacks."""
    assert len(stamps(at_work)) == 20 * (3 + 3 + 3 + 1)


def test_they_become_the_tables_of_a_run_without(experiment: Path, output: Path, one_by_one: Path) -> None:
    assert "about 0 forward and 0 backward passes" in invoke("plan", experiment, "--output", output).stdout
    run(experiment, output)
    assert contents(output) == contents(one_by_one)


def test_whoever_reads_sees_the_same(at_work: Path, one_by_one: Path) -> None:
    for name in ("images", "attacks", "predictions", "failures"):
        left, right = (open_run(str(each)).rows(f"from {name} order by all") for each in (at_work, one_by_one))
        assert left == right
    verified = invoke("verify", at_work, "--sample", "2")
    assert verified.exit_code == 0, verified.stdout


def test_a_query_looks_again_where_a_run_at_work_has_put_files_together(
    experiment: Path, output: Path, one_by_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, before, listed = open_run(str(output)), set(stamps(output)), Store.paths

    def paths(store: Store, *below: str) -> set[str]:
        """As they are; the first time that they are asked for, the run ends before anybody reads them."""
        found = listed(store, *below)
        if store is asked.store and set(stamps(output)) == before:
            run(experiment, output)
        return found

    monkeypatch.setattr(Store, "paths", paths)
    assert asked.rows("from attacks order by all") == open_run(str(one_by_one)).rows("from attacks order by all")
    assert set(stamps(output)) != before


def test_a_damaged_file_is_no_reason_to_look_again(output: Path) -> None:
    damaged = next(path for path in sorted(stamps(output)) if path.startswith("attacks/"))
    (output / damaged).write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="if a part is damaged, `megalith verify` names it"):
        open_run(str(output)).rows("from attacks")


def test_what_is_added_computes_its_own_rows_only(
    experiment: Path, output: Path, one_by_one: Path, tmp_path: Path
) -> None:
    added = ("--set", 'views=["center", "ten-crop"]')
    run(experiment, output, *added)
    assert costs(output)[-1]["predict"] == 20 * 3 * 2
    shutil.copytree(one_by_one, tmp_path / "other")
    run(experiment, tmp_path / "other", *added)
    assert contents(output) == contents(tmp_path / "other")


def test_damage_losses_and_failures_are_mended(experiment: Path, output: Path, one_by_one: Path) -> None:
    """Of a few chunks each; nothing else is computed."""
    store = Store(str(output))
    paths = sorted(store.paths())
    torn, lost, flipped = (
        next(path for path in paths if re.fullmatch(pattern, path))
        for pattern in (
            r"predictions/attack=mi/chunk-00002\..*",
            r"failures/stage=attack/chunk-00004\..*",
            r"attacks/chunk-00006\..*",
        )
    )
    Path(output, torn).write_bytes(b"")
    Path(output, lost).unlink()
    content = bytearray(Path(output, flipped).read_bytes())
    content[len(content) // 3] ^= 1
    Path(output, flipped).write_bytes(bytes(content))
    part = predictions_part(8, "pgd", "lite0", "center", "none")
    of_chunk = next(path for path in paths if re.fullmatch(r"predictions/attack=pgd/chunk-00008\..*", path))
    found = store.by_keys(of_chunk)
    (image,) = found[part.keys]["image_id"].to_pylist()
    store.publish_bundle("predictions", 8, {**found, part.keys: found[part.keys].slice(0, 0)})
    reason = [failure_row(image, "ProcessDied", "it died")]
    store.publish(Part("failures", 8, ("predict", *part.keys)), rows_table("failures", reason))
    run(experiment, output, "--retry-failures", "predict")
    assert costs(output)[-1]["predict"] == 2 + 1
    assert contents(output) == contents(one_by_one)


KILLED = """
import os, signal, sys
import pipeline.run.execute
from transforms.errors import InputError
from transforms.storage.store import Store
pipeline.run.execute.MOST_FILES = 1
left = int(sys.argv.pop(1))
published, deleted = Store.publish_bytes, Store.delete
def count(step):
    def counted(store, *arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(store, *arguments, **named)
    return counted
Store.publish_bytes, Store.delete = count(published), count(deleted)
from pipeline.main import main
main()
"""


@pytest.mark.system
def test_killed_again_and_again_the_same_command_gives_the_tables(
    experiment: Path, one_by_one: Path, tmp_path: Path
) -> None:
    """After ever more files that were published or deleted, so that it gets on."""
    output, killed = tmp_path / "run", 0
    for steps in range(23, 10**4, 97):
        arguments = (steps, "run", experiment, "--output", output, "--direct_num_workers=1")
        process = start(tmp_path / "log", *arguments, program=KILLED)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
        killed += 1
        if (output / "run.json").exists():
            assert (
                max(Counter(map(str, open_run(str(output)).rows("select * from predictions")[1])).values(), default=1)
                == 1
            )
    assert killed > 3
    assert contents(output) == contents(one_by_one)


def test_shards_have_bundles_of_their_own(
    experiment: Path, one_by_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other; the last one compacts."""
    monkeypatch.setattr(execute, "MOST_FILES", 1)
    output = tmp_path / "run"
    for number in (3, 1):
        run(experiment, output, "--shard", f"{number}/3")
    assert {len(file.chunks) for path in stamps(output) if (file := table_file(path))} == {1}
    damaged = next(iter((output / "predictions" / "attack=mi").glob("chunk-00000.*")))
    damaged.write_bytes(b"")
    run(experiment, output, "--shard", "3/3")
    assert damaged.read_bytes() == b""
    run(experiment, output, "--shard", "1/3")
    assert costs(output)[-1]["predict"] == 2
    run(experiment, output, "--shard", "2/3")
    assert contents(output) == contents(one_by_one)


def test_waves_share_a_bundle(
    experiment: Path, one_by_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ("--set", 'targets=["lite0", "lite1"]')
    with monkeypatch.context() as patch:
        patch.setattr(execute, "MOST_FILES", 1)
        patch.setattr(execute, "compact", lambda *_: None)
        run(experiment, tmp_path / "waves", *both, "--models-in-memory", "1")
    assert len(stamps(tmp_path / "waves")) == 20 * (3 + 3 + 3 + 1)
    assert len(rows(tmp_path / "waves", "predictions")) == 20 * 3 * 2 * 2

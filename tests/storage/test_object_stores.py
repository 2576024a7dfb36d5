"""Run directories and images on object stores: the whole cycle, and one line for whatever is wrong with a store."""

import io
import json
import re
import signal
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pyarrow as pa
import pytest
import requests
from apache_beam.internal.gcp.auth import _Credentials
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.gcp.gcsio_retry import DEFAULT_RETRY_WITH_THROTTLING_COUNTER
from apache_beam.utils import retry
from google.api_core.retry import Retry
from google.cloud.storage.retry import DEFAULT_RETRY
from typer.testing import Result

import pipeline.cli.process
import pipeline.run.lock
import pipeline.run.progress
from pipeline.main import main
from pipeline.results.tables import open_run
from pipeline.run.compaction import compact
from pipeline.run.lock import LOCK, lock
from pipeline.run.plan import Tasks
from pipeline.run.progress import progress_bar
from tests.support.preforked import start, wait_until
from tests.support.runs import (
    complaint,
    contents,
    invoke,
    label_of,
    left,
    rows,
    run,
    sample_files,
    tiny,
    written,
)
from transforms.data.chunks import ImageRef
from transforms.data.decode import BadImage, CanvasSpec
from transforms.errors import InputError, StoppedError
from transforms.rows.canvases import canvas_table
from transforms.rows.failures import failure_row
from transforms.rows.parts import Part, attacks_part, canvases_part, images_part, superseded
from transforms.rows.tables import TABLES, rows_table
from transforms.storage import preflight
from transforms.storage.files import read_bytes, slice_uri
from transforms.storage.images import read_image
from transforms.storage.preflight import reach
from transforms.storage.store import Store, is_temporary

pytestmark = pytest.mark.system

if TYPE_CHECKING:
    from tests.support.object_stores import Bucket, Gate


@pytest.fixture
def store(bucket: "Bucket") -> Store:
    return Store(f"{bucket.url}/runs/a")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run directory that seems to be in use is watched for a second, not for half a minute."""
    for name, seconds in {"BEAT": 0.2, "WATCH": 1.0, "_LOOK": 0.1}.items():
        monkeypatch.setattr(pipeline.run.lock, name, seconds)


# --- the whole cycle


def least(**changes: Any) -> dict[str, Any]:
    """Two images in two chunks, one attack, one target, one defence."""
    images = {"samples": "foolbox", "select": [file.stem for file in sample_files()[:2]]}
    attacks = {"mi": {"recipe": "mi-fgsm", "surrogates": ["lite0"], "target": 649, "eps": "4/255", "steps": 1}}
    return tiny(
        chunk_size=1, images=images, models={"lite0": "packaged/efficientnet-lite0"}, attacks=attacks, **changes
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of `least()` on a disk."""
    folder = tmp_path_factory.mktemp("local")
    run(written(folder, least()), folder / "run")
    return folder / "run"


def upload_images(bucket: "Bucket") -> dict[str, Any]:
    """The images of `least()`, under the same ids, and the `images:` section that means them."""
    files = sample_files()[:2]
    for file in files:
        bucket.put(f"images/{file.name}", file.read_bytes())
    bucket.put("images/labels.csv", labels_csv(files))
    bucket.put("images/", b"")  # as a console shows a folder
    return {"folder": f"{bucket.url}/images", "labels": "labels.csv"}


def upload_tar(bucket: "Bucket") -> dict[str, Any]:
    """The same images in an archive."""
    files = sample_files()[:2]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file in files:
            archive.add(file, file.name)
    bucket.put("images/val.tar", packed.getvalue())
    bucket.put("images/labels.csv", labels_csv(files))
    return {"imagenet": f"{bucket.url}/images/val.tar", "labels": "labels.csv"}


def labels_csv(files: list[Path]) -> bytes:
    return "".join(["file,label\n", *(f"{file.name},{label_of(file)}\n" for file in files)]).encode()


def below(found: dict[str, Any], folder: str) -> dict[str, Any]:
    return {path.removeprefix(f"{folder}/"): each for path, each in found.items() if path.startswith(f"{folder}/")}


def parts(found: dict[str, Any]) -> dict[str, Any]:
    return {path: each for path, each in found.items() if path.endswith(".parquet")}


def kill_in_the_middle(arguments: list[object], log: Path, predictions: Callable[[], int]) -> None:
    process = start(log, *arguments)

    def some_are_there() -> bool:
        time.sleep(0.1)
        return predictions() >= 2

    wait_until(some_are_there, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def as_local(bucket: "Bucket", folder: str, copy: Path) -> Path:
    """The run directory as the store's own client downloads it."""
    for path, content in below(bucket.objects(), folder).items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(content)
    return copy


@pytest.mark.usefixtures("quick")
def test_the_whole_cycle(bucket: "Bucket", local: Path, tmp_path: Path) -> None:
    """Killed and resumed, the tables are those of a local run, byte for byte; and every command reads them there."""
    experiment = written(tmp_path, least() | {"images": upload_images(bucket)})
    output = f"{bucket.url}/runs/a"
    arguments: list[object] = [experiment, "--output", output, "--direct_num_workers=1", *bucket.options]
    log = tmp_path / "log"
    kill_in_the_middle(["run", *arguments], log, lambda: sum("/predictions/" in path for path in bucket.stamps()))
    before = parts(below(bucket.stamps(), "runs/a"))
    assert 0 < len(before) < len(contents(local))

    resumed = invoke("run", *arguments)
    assert resumed.exit_code == 0, resumed.output
    after = below(bucket.stamps(), "runs/a")
    assert before == {path: after[path] for path in before}, "a finished part was rewritten"
    assert set(after) == {*contents(local), "run.json", "manifest.json"}

    copy = as_local(bucket, "runs/a", tmp_path / "copy")
    same_but_for_uris(copy, local)
    planned = invoke("plan", *arguments)
    assert "to do: about 0 forward and 0 backward passes" in planned.stdout
    said = invoke("sql", output, QUERY, "--format", "json", *bucket.options)
    assert json.loads(said.stdout) == open_run(str(local)).sql(QUERY).to_dict("records")
    read_the_same(output, copy)
    nothing_secret(bucket, copy, log, resumed, planned, said)


QUERY = "select attack, defense, count(*) as n, avg(correct::int) as rate from predictions group by all order by all"


def same_but_for_uris(found: Path, expected: Path) -> None:
    """Two run directories hold the same parts, but for where the images are."""

    def others(folder: Path) -> dict[str, bytes]:
        return {path: content for path, content in contents(folder).items() if not path.startswith("images/")}

    assert others(found) == others(expected)
    assert set(contents(found)) == set(contents(expected))
    assert [{**row, "uri": ""} for row in rows(found, "images")] == [
        {**row, "uri": ""} for row in rows(expected, "images")
    ]


def read_the_same(output: str, copy: Path) -> None:
    remote, local = open_run(output), open_run(str(copy))
    assert remote.record == local.record
    for table in TABLES:
        assert remote.dataset(table).to_table().equals(local.dataset(table).to_table()), table
    assert remote.success().equals(local.success())


def nothing_secret(bucket: "Bucket", copy: Path, log: Path, *results: Result) -> None:
    """In what was said, in what is stored, and in the tables once they are decompressed."""
    said = [result.output.encode() for result in results] + [path.read_bytes() for path in log.iterdir()]
    tables = [repr(rows(copy, table)).encode() for table in TABLES]
    assert all(tables[:4])
    for secret in bucket.secrets:
        assert not [text for text in [*said, *bucket.objects().values(), *tables] if secret.encode() in text]


def test_a_tar_archive_on_a_store_and_a_local_run_directory(bucket: "Bucket", local: Path, tmp_path: Path) -> None:
    run(written(tmp_path, least() | {"images": upload_tar(bucket)}), tmp_path / "run", *bucket.options)
    same_but_for_uris(tmp_path / "run", local)
    uris = [row["uri"] for row in rows(tmp_path / "run", "images")]
    assert all(uri.startswith(f"{bucket.url}/images/val.tar#bytes=") for uri in uris)


@pytest.mark.usefixtures("quick", "impatient")
def test_a_store_that_goes_away_in_mid_run(
    bucket: "Bucket", local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With local images: when the store is back, the same command makes the tables of a local run to the last byte."""
    output = f"{bucket.url}/runs/a"
    arguments = ["run", written(tmp_path, least()), "--output", output, "--direct_num_workers=1", *bucket.options]
    monkeypatch.setattr(pipeline.cli.process, "leave", left)
    bucket.gate.shuts_at = "predictions"
    stopped = invoke(*arguments)
    assert bucket.gate.is_shut
    assert stopped.exit_code == 1
    last = stopped.stderr.splitlines()[-1]
    assert last.startswith("megalith: stopped: ")
    assert "the same command goes on" in last
    assert not [secret for secret in bucket.secrets if secret in stopped.output]
    assert parts(below(bucket.stamps(), "runs/a"))

    bucket.gate.open()
    assert invoke(*arguments).exit_code == 0
    assert contents(as_local(bucket, "runs/a", tmp_path / "copy")) == contents(local)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of object stores ask again as often as ever, but do not wait long in between."""
    monkeypatch.setattr(retry.Clock, "sleep", lambda *_: None)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for policy in (DEFAULT_RETRY, DEFAULT_RETRY_WITH_THROTTLING_COUNTER):
        monkeypatch.setattr(policy, "_timeout", 0.5)


# --- the parts of a run directory


def published(rows_: int) -> Any:
    row = {"uri": "u", "label": 1, "label_name": "goldfish", "width": 2, "height": 3, "bytes_sha256": "0" * 64}
    return rows_table("images", [{"image_id": f"i{number}", **row} for number in range(rows_)])


def test_parts_are_published_and_read(store: Store, bucket: "Bucket") -> None:
    part = attacks_part(3, "a b:c=[1]*?")  # a name full of what globs mean
    assert not store.has(part)
    assert store.paths() == set()
    store.publish(part, rows_table("attacks", []))
    store.publish(images_part(0), published(5))
    assert store.has(part)
    assert store.read(images_part(0)).equals(published(5))
    assert store.paths() == {part.path, images_part(0).path}
    before = bucket.stamps()
    assert set(before) == {f"runs/a/{part.path}", f"runs/a/{images_part(0).path}"}
    store.publish(images_part(0), published(5))
    assert bucket.stamps() == before, "what was there was written again"
    store.delete([part.path])
    store.delete([])
    assert store.paths() == {images_part(0).path}
    with pytest.raises(FileNotFoundError, match=r"chunk-00003\.parquet"):
        store.read(part)


def test_a_folder_of_a_console_is_no_file(store: Store, bucket: "Bucket") -> None:
    """Nor is what lies beside the run directory, under a name that begins alike."""
    bucket.put("runs/a/", b"")
    bucket.put("runs/ab/run.json", b"{}")
    bucket.put("runs/a/x", b"1")
    assert store.paths() == {"x"}


def test_a_root_with_glob_characters(bucket: "Bucket") -> None:
    store = Store(f"{bucket.url}/[x] y?")
    store.publish_bytes("a", b"1")
    for beside in ("x y?/b", "x y?/a", "[x] yz/a"):
        bucket.put(beside, b"2")
    assert store.paths() == {"a"}
    assert store.read_bytes("a") == b"1"
    store.delete(["a"])
    assert set(bucket.objects()) == {"x y?/b", "x y?/a", "[x] yz/a"}


def test_what_may_not_be_deleted_is_said(store: Store, bucket: "Bucket") -> None:
    store.publish_bytes("a", b"1")
    bucket.gate.forbids = "delete" if bucket.url.startswith("s3:") else "/batch"
    with pytest.raises(OSError, match="403"):
        store.delete(["a"])
    assert store.paths() == {"a"}


def test_gathered_canvases_are_read_by_chunk(store: Store, bucket: "Bucket") -> None:
    """With as many requests as docs/stores.md says, and no damaged byte of what is read believed."""
    noise = np.random.default_rng(1).integers(0, 256, (3, 128, 128), np.uint8)
    tables = [canvas_table([f"i{number}"], [noise + np.uint8(number)]) for number in range(17)]
    for number, table in enumerate(tables):
        store.publish(canvases_part(number, "none"), table)
    compact(store, store.paths(), 17, "run")
    parts = [canvases_part(number, "none") for number in range(17)]
    assert store.paths() == {part.compacted for part in parts}
    assert [store.read(part) for part in parts] == tables
    bucket.gate.open()
    store.read(parts[5])
    assert len(bucket.gate.requests) <= (5 if bucket.url.startswith("s3:") else 3)
    content = bytearray(store.read_bytes(parts[0].compacted))
    content[len(content) // 2] ^= 1
    bucket.put(f"runs/a/{parts[0].compacted}", bytes(content))
    with pytest.raises(
        OSError, match=r"group-00000\.parquet is damaged; delete it, and the same command makes it again"
    ):
        store.read(parts[8])
    assert store.read(parts[2]) == tables[2]


def test_bundles_are_found_and_compacted(store: Store, bucket: "Bucket") -> None:
    """A part that is in none costs one listing of its chunk's."""
    parts = [Part("failures", number, ("attack", attack, *["none"] * 3)) for number in range(17) for attack in "ab"]
    tables = {part: rows_table("failures", [failure_row(f"i{part.chunk}", part.keys[1], "x")]) for part in parts}
    made = Store(store.root, bundles=True)
    for number in range(17):
        for part in parts[2 * number : 2 * number + 2]:
            made.publish(part, tables[part])
        made.gather(parts[2 * number : 2 * number + 2])
    assert len(made.paths()) == 17
    fresh = Store(store.root, bundles=True)
    assert all(map(fresh.has, parts))
    bucket.gate.open()
    assert not fresh.has(Part("failures", 7, ("attack", "c", *["none"] * 3)))
    assert len(bucket.gate.requests) <= 3 * (1 + bucket.url.startswith("s3:"))
    assert superseded(fresh.paths()) == set()
    compact(fresh, fresh.paths(), 17, "run")
    assert fresh.paths() == {part.compacted for part in parts}
    for attack in (0, 1):
        assert fresh.rows(parts[attack].compacted).equals(pa.concat_tables([tables[each] for each in parts[attack::2]]))


def test_how_many_requests_a_part_takes(store: Store, bucket: "Bucket") -> None:
    """As docs/stores.md says."""

    def requests_of(work: Callable[[], object]) -> int:
        bucket.gate.open()
        work()
        return len(bucket.gate.requests)

    writing = 7 if bucket.url.startswith("s3:") else 5
    part = images_part(0)
    assert requests_of(lambda: store.publish(part, published(5))) <= writing
    assert requests_of(lambda: store.read(part)) <= 2
    assert requests_of(lambda: store.has(part)) <= 1
    paths = [part.path, *(f"{number}" for number in range(5))]
    for path in paths[1:]:
        store.publish_bytes(path, b"1")
    assert requests_of(store.paths) == 1
    assert requests_of(lambda: store.delete(paths)) == 1
    assert store.paths() == set()


def test_a_bucket_as_run_directory(bucket: "Bucket") -> None:
    store = Store(bucket.url)
    store.publish_bytes("a/b", b"1")
    assert store.paths() == {"a/b"}
    assert bucket.objects() == {"a/b": b"1"}


def test_whole_parts_are_known_without_opening_any(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {images_part(chunk).path for chunk in range(3)}
    for chunk in range(3):
        store.publish(images_part(chunk), published(5))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(FileSystems, "open", never)
    assert store.whole(store.paths()) == paths


def test_a_writer_that_dies_leaves_no_part(store: Store, bucket: "Bucket", monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while it writes: an object store's client may finish half an object when its file is closed."""
    store.publish(images_part(0), published(5))
    create = FileSystems.create

    class Interrupted:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> "Interrupted":
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, content: bytes) -> None:
            self._file.write(content[: len(content) // 2])
            raise KeyboardInterrupt

    monkeypatch.setattr(FileSystems, "create", staticmethod(lambda path, **named: Interrupted(create(path, **named))))
    with pytest.raises(KeyboardInterrupt):
        store.publish(images_part(1), published(50))
    assert set(bucket.objects()) == {f"runs/a/{images_part(0).path}"}


# --- images


def test_images_and_slices_of_them(bucket: "Bucket") -> None:
    bucket.put("a#b.bin", b"0123456789")
    assert read_bytes(f"{bucket.url}/a#b.bin", 10) == b"0123456789"
    assert read_bytes(slice_uri(f"{bucket.url}/a#b.bin", 2, 3), 10) == b"234"
    with pytest.raises(OSError, match="larger than 9 bytes"):
        read_bytes(f"{bucket.url}/a#b.bin", 9)
    with pytest.raises(OSError, match="after 2 of 5 bytes"):
        read_bytes(slice_uri(f"{bucket.url}/a#b.bin", 8, 5), 10)


@pytest.mark.parametrize(("name", "words"), [("absent.jpg", r"cannot be read.*absent\.jpg"), ("empty.jpg", "empty")])
def test_an_image_that_is_gone_or_empty_costs_a_row(bucket: "Bucket", name: str, words: str) -> None:
    bucket.put("empty.jpg", b"")
    with pytest.raises(BadImage, match=words):
        read_image(ImageRef("x", f"{bucket.url}/{name}", 1), CanvasSpec())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["forbids", "shuts_at"])
def test_a_store_that_does_not_give_an_image_stops_the_run(bucket: "Bucket", fault: str) -> None:
    """The image would become a failure for good, and the next ones with it."""
    bucket.put("x.jpg", sample_files()[0].read_bytes())
    ref = ImageRef("x", f"{bucket.url}/x.jpg", 1)
    assert read_image(ref, CanvasSpec())
    setattr(bucket.gate, fault, "x.jpg")
    with pytest.raises(StoppedError, match=r"x\.jpg cannot be read: .*") as caught:
        read_image(ref, CanvasSpec())
    assert "\n" not in str(caught.value)


def test_a_worker_without_the_extra_stops_the_run() -> None:
    """As where only its image lacks the client: it could read none."""
    with pytest.raises(StoppedError, match=r"nosuch://bucket/x\.jpg cannot be read: .*filesystem"):
        read_image(ImageRef("x", "nosuch://bucket/x.jpg", 1), CanvasSpec())


class PermissionDeniedByStoreError(Exception):
    """Clients of object stores have exceptions of their own."""


def test_a_part_that_cannot_be_read_is_named_by_sql(
    s3_bucket: "Bucket", local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order threads come by Python's lock: it changes hands so often that waiting for each other showed."""
    store = Store(f"{s3_bucket.url}/run")
    for path in ("run.json", images_part(0).path):
        store.publish_bytes(path, (local / path).read_bytes())
    run = open_run(store.root)
    assert len(run.sql("select * from images")) == 1

    def fails(*_: object, **__: object) -> None:
        raise PermissionDeniedByStoreError("expired")

    monkeypatch.setattr(FileSystems, "open", fails)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            with pytest.raises(InputError, match=r"chunk-00000\.parquet") as caught:
                run.sql("select * from images")
            assert "PermissionDeniedByStoreError: expired" in str(caught.value)
            assert "\n" not in str(caught.value)
    finally:
        sys.setswitchinterval(interval)


def test_one_client_serves_a_process(s3_bucket: "Bucket", monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one for each operation, which would cost more than the operation."""
    made: list[int] = []
    session = boto3.session.Session

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return session(*arguments)

    monkeypatch.setattr(boto3.session, "Session", counted)
    store = Store(f"{s3_bucket.url}/run")

    def work(number: int) -> bytes:
        store.publish_bytes(str(number), b"x" * number)
        return store.read_bytes(str(number))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(1, 41))) == [b"x" * number for number in range(1, 41)]
    assert len(made) == 1


# --- two runs at once


@pytest.mark.usefixtures("quick")
def test_a_second_run_is_refused_while_the_first_is_at_work(store: Store, bucket: "Bucket") -> None:
    with lock(store):
        with pytest.raises(InputError, match="another run is at work in") as caught, lock(store):
            raise AssertionError("both are at work")
        assert "\n" not in str(caught.value)
        # The file may just be changing.
        assert {path for path in store.paths() if not is_temporary(path)} == {LOCK}
    assert bucket.objects() == {}
    with lock(store):
        pass


@pytest.mark.usefixtures("quick")
def test_the_run_directory_of_a_dead_run_is_taken_over(store: Store) -> None:
    store.publish_bytes(LOCK, b"somebody 7")
    with lock(store):
        assert not store.read_bytes(LOCK).startswith(b"somebody")
    assert store.paths() == set()


@pytest.mark.usefixtures("quick")
def test_a_run_that_ends_while_it_is_watched_is_not_at_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish_bytes(LOCK, b"somebody 7")
    sleep = time.sleep

    def ends(seconds: float) -> None:
        sleep(seconds)
        if store.exists(LOCK) and store.read_bytes(LOCK).startswith(b"somebody"):
            store.delete([LOCK])

    monkeypatch.setattr(time, "sleep", ends)
    with lock(store):
        assert not store.read_bytes(LOCK).startswith(b"somebody")


@pytest.mark.usefixtures("quick")
def test_of_two_that_begin_at_once_one_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither has seen the other; the later signature stays."""
    sleep = time.sleep

    def another_signs(seconds: float) -> None:
        sleep(seconds)
        store.publish_bytes(LOCK, b"another 0")

    monkeypatch.setattr(time, "sleep", another_signs)
    with pytest.raises(InputError, match="another run is at work"), lock(store):
        raise AssertionError("the other one signed later")
    assert store.read_bytes(LOCK) == b"another 0"


@pytest.mark.usefixtures("quick")
def test_the_command_says_that_a_run_may_be_at_work(s3_bucket: "Bucket", tmp_path: Path) -> None:
    store = Store(f"{s3_bucket.url}/run")
    with lock(store):
        arguments = [written(tmp_path, tiny()), "--output", store.root, *s3_bucket.options]
        planned = invoke("plan", *arguments)
        assert planned.exit_code == 0
        assert "a run may be at work in" in planned.stderr


# --- what may be wrong with a store


def one_line(path: str) -> str:
    with pytest.raises(InputError) as caught:
        reach("--output", path)
    text = str(caught.value)
    assert text.startswith("--output: ")
    assert "\n" not in text
    return text


def test_no_such_bucket(bucket: "Bucket", tmp_path: Path) -> None:
    """Whichever command meets it, and whatever it is wanted for."""
    absent = f"{bucket.url}-absent"
    experiment = written(tmp_path, tiny())
    images = written(tmp_path, tiny(images={"folder": f"{absent}/images", "labels": "labels.csv"}), "images.yaml")
    labels = written(tmp_path, tiny(images={**upload_images(bucket), "labels": f"{absent}/labels.csv"}), "labels.yaml")
    local = tmp_path / "run"
    for what, *arguments in [
        ("--output", "run", experiment, "--output", f"{absent}/run"),
        ("--output", "plan", experiment, "--output", f"{absent}/run"),
        ("run directory", "sql", f"{absent}/run", "select 1"),
        ("images.folder", "plan", images, "--output", local),
        ("images.labels", "plan", labels, "--output", local),
    ]:
        said = complaint(invoke(*arguments, *bucket.options))
        assert said == f"megalith: {what}: {absent}: there is no such bucket"
    assert not local.exists()


def test_no_run_in_a_bucket(bucket: "Bucket") -> None:
    assert "run.json" in complaint(invoke("sql", f"{bucket.url}/run", "select 1", *bucket.options))


def test_files_that_are_no_run_are_left_alone(bucket: "Bucket", tmp_path: Path) -> None:
    bucket.put("run/thesis.tex", b"x")
    said = complaint(invoke("run", written(tmp_path, tiny()), "--output", f"{bucket.url}/run", *bucket.options))
    assert "holds files but no run.json" in said
    assert bucket.objects() == {"run/thesis.tex": b"x"}


def test_images_that_are_not_there(bucket: "Bucket", tmp_path: Path) -> None:
    images = {"folder": f"{bucket.url}/images", "labels": "labels.csv"}
    arguments = [written(tmp_path, tiny(images=images)), "--output", tmp_path / "run", *bucket.options]
    assert "there is no 'labels.csv'" in complaint(invoke("plan", *arguments))
    bucket.put("images/labels.csv", b"file,label\n")
    assert "no images in" in complaint(invoke("plan", *arguments))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("s3:///run", ["names no bucket", "s3://BUCKET/FOLDER"]),
        ("S3://bucket/run", ["S3://", "is not supported", "s3:// or gs://"]),
        ("s4://bucket/run", ["s4://", "is not supported", "s3:// or gs://"]),
    ],
)
def test_wrong_paths(path: str, words: list[str]) -> None:
    assert [word for word in words if word not in one_line(path)] == []


def test_local_paths_are_not_asked_about(tmp_path: Path) -> None:
    reach("--output", str(tmp_path / "absent"))


def test_without_credentials_for_s3(s3_endpoint: "Gate", tmp_path: Path) -> None:
    arguments = [written(tmp_path, tiny()), "--output", "s3://bucket/run", f"--s3_endpoint_url={s3_endpoint.url}"]
    said = complaint(invoke("plan", *arguments))
    assert "s3://bucket: no credentials" in said
    assert "AWS_ACCESS_KEY_ID" in said


def test_credentials_that_come_later_count(s3_bucket: "Bucket", monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook, say, whose user reads the message and sets the variables that it names."""
    FileSystems.set_options(None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_bucket.gate.url)
    with pytest.raises(InputError, match="no credentials"):
        open_run(f"{s3_bucket.url}/run")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    with pytest.raises(InputError, match=r"has no run\.json"):
        open_run(f"{s3_bucket.url}/run")


@pytest.fixture
def strict_s3(s3_bucket: "Bucket") -> Iterator["Bucket"]:
    """S3 that looks at credentials."""
    url = f"{s3_bucket.gate.url}/moto-api/reset-auth"
    requests.post(url, data=b"0", timeout=10)
    yield s3_bucket
    requests.post(url, data=b"inf", timeout=10)


def test_credentials_that_s3_does_not_know(strict_s3: "Bucket") -> None:
    said = one_line(f"{strict_s3.url}/run")
    assert "AccessKeyId" in said
    assert not [secret for secret in strict_s3.secrets if secret in said]


def test_without_credentials_for_gcs(gs_bucket: "Bucket", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # else a machine without internet is asked for long what it is
    said = one_line(f"{gs_bucket.url}/run")
    assert "no credentials" in said
    assert "gcloud auth application-default login" in said


def test_credentials_that_google_does_not_know(gs_bucket: "Bucket", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gs_bucket.gate, "tokens", False)
    for name, value in {"_credentials_init": False, "_credentials": None}.items():  # Beam keeps what it has found
        monkeypatch.setattr(_Credentials, name, value)
    said = one_line(f"{gs_bucket.url}/run")
    assert "invalid_grant" in said
    assert gs_bucket.gate.private_key not in said


def test_a_bucket_that_may_not_be_listed(bucket: "Bucket") -> None:
    bucket.gate.forbids = "list-type" if bucket.url.startswith("s3:") else "/o?"
    assert re.search("403|Forbidden", one_line(f"{bucket.url}/run"))


@pytest.fixture
def endpoint(bucket: "Bucket", monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Tells the environment that stores are elsewhere."""

    def tell(url: str) -> None:
        for name, value in {
            "STORAGE_EMULATOR_HOST": url,
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "KEYIDOFATEST",
            "AWS_SECRET_ACCESS_KEY": "secret-of-a-test",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        FileSystems.set_options(None)

    return tell


def test_nobody_listens(bucket: "Bucket", endpoint: Callable[[str], None]) -> None:
    """As where the endpoint is wrong, or there is no network."""
    endpoint("http://somebody:password-of-a-test@127.0.0.1:9")
    said = one_line(f"{bucket.url}/run")
    assert "127.0.0.1" in said
    assert re.search("Could not connect to the endpoint|Connection refu", said)
    assert not [secret for secret in ("KEYIDOFATEST", "-of-a-test", *bucket.secrets) if secret in said]


def test_somebody_listens_and_never_answers(
    bucket: "Bucket", endpoint: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a firewall swallows what is sent."""
    monkeypatch.setattr(preflight, "_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        said = one_line(f"{bucket.url}/run")
    assert time.monotonic() - started < 5
    assert re.search("no answer within|timed out", said)


def test_a_store_that_may_be_read_only(s3_bucket: "Bucket", monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise PermissionDeniedByStoreError("PutObject is not allowed")

    monkeypatch.setattr(FileSystems, "create", fails)
    store = Store(f"{s3_bucket.url}/run")
    with pytest.raises(InputError, match=r"cannot be written: .*PutObject is not allowed") as caught, lock(store):
        raise AssertionError("nothing was written")
    assert "\n" not in str(caught.value)


# --- a store that goes away in the middle


NOTHING = Tasks((), np.zeros(0, np.int64), np.zeros((0, 0), np.bool_))


def test_progress_outlives_a_listing_that_fails() -> None:
    looks: list[int] = []

    class Away:
        def paths(self) -> set[str]:
            looks.append(1)
            raise OSError("the network is away")

    with progress_bar(Away(), NOTHING, "run"):  # type: ignore[arg-type]
        deadline = time.monotonic() + 20
        while len(looks) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(looks) >= 3  # the last one when the run ends


@pytest.mark.usefixtures("quick")
def test_a_store_that_hangs_is_not_waited_for(s3_bucket: "Bucket", monkeypatch: pytest.MonkeyPatch) -> None:
    """When the run is over, neither the progress bar nor the file that says that it was at work holds it up."""
    store = Store(f"{s3_bucket.url}/run")
    for module, name in ((pipeline.run.progress, "_LAST_LOOK"), (pipeline.run.lock, "_PARTING")):
        monkeypatch.setattr(module, name, 0.2)
    answers = threading.Event()

    def hangs(*_: object) -> None:
        answers.wait(10)
        raise OSError("the network is away")

    monkeypatch.setattr(Store, "paths", hangs)
    with lock(store), progress_bar(store, NOTHING, "run"):
        monkeypatch.setattr(Store, "read_bytes", hangs)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    answers.set()  # Nobody waits for those threads: what they say would be another test's.


def test_waiting_is_said_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients ask again for minutes, Beam with a traceback and Google's in silence."""
    failures = [ConnectionError("nobody is there\nat all")]

    @retry.with_exponential_backoff(num_retries=1, initial_delay_secs=0.01)  # type: ignore[untyped-decorator]
    def ask() -> str:
        if failures:
            raise failures.pop()
        return "answer"

    monkeypatch.setattr("sys.argv", ["megalith", "--help"])
    with pytest.raises(SystemExit):
        main()
    capsys.readouterr()
    assert ask() == "answer"
    said = capsys.readouterr().err
    assert said == "warning: ConnectionError: nobody is there at all; trying again in 0 seconds\n"
    failures.append(ConnectionError("nobody is there\nat all"))
    assert Retry(predicate=lambda _: True, initial=0.01)(ask.__wrapped__)() == "answer"
    assert re.fullmatch("warning: Retrying due to nobody is there at all, sleeping .*\n", capsys.readouterr().err)

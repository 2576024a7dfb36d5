"""Hostile input: whatever the bytes, an answer or one line, within a bound of memory and of time.

In CI the examples are few and always the same. To search for longer, with other examples each time:
`MEGALITH_FUZZ=100 pytest tests/config/test_fuzzing.py` tries a hundred times as many.
"""

import gzip
import io
import json
import os
import resource
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from torch import nn

from pipeline.config.experiment import load_experiment
from pipeline.config.yaml import read_yaml
from pipeline.images.labels import read_devkit, read_labels
from pipeline.results.record import read_record
from pipeline.results.tables import open_run
from pipeline.run.prepare import prepare
from tests.support.runs import EMPTY_RUN, label_of, sample_files
from transforms.data.classes import class_wnid
from transforms.data.decode import BadImage, CanvasSpec, decode
from transforms.errors import InputError
from transforms.models.sources.weights import reading, state_dict_into
from transforms.storage.store import Store

pytestmark = pytest.mark.system

TIMES = int(os.environ.get("MEGALITH_FUZZ", "1"))
SECONDS = 20
MEMORY = 2**30
"""Bytes beyond what the process has at the start; to decode an image of the largest size takes half of that."""


def fuzz(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        deadline=SECONDS * 1000,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """Who asks for more gets a MemoryError, and fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


GREEDY: dict[str, tuple[str, Callable[[], Any]]] = {
    "images": ("transforms.data.decode._upright_rgb", lambda: decode(b"an image", CanvasSpec(16, 12))),
    "experiments": ("pipeline.config.yaml._unshared", lambda: read_yaml("name: x", "an experiment")),
}


@pytest.mark.parametrize("step", GREEDY)
def test_too_much_memory_is_not_taken_for_damage(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the bound would prove nothing: whoever exceeds it would only say that the input is wrong."""
    name, read = GREEDY[step]
    monkeypatch.setattr(name, lambda *_: bytes(2 * MEMORY))
    with pytest.raises(MemoryError):
        read()


def assert_one_line(error: Exception, longest: int = 3000) -> None:
    message = str(error)
    assert message.isprintable() and 0 < len(message) < longest, repr(message)


# --- bytes


def _flip(data: bytes, place: int, value: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ (value % 255 + 1)]) + data[place + 1 :]


def _cut(data: bytes, place: int, value: int) -> bytes:
    return data[: place % len(data)]


def _drop(data: bytes, place: int, value: int) -> bytes:
    place %= len(data)
    return data[:place] + data[place + 1 + value :]


def _repeat(data: bytes, place: int, value: int) -> bytes:
    place %= len(data)
    return data[:place] + data[place : place + 1 + value] * (2 + value % 50) + data[place + 1 + value :]


def _number(data: bytes, place: int, value: int) -> bytes:
    """Puts a 16- or 32-bit number in its place: large dimensions, counts and offsets."""
    place %= len(data)
    numbers = (0, 1, 2**15 - 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 50_000, 8192)
    form = ("<I", ">I", "<H", ">H")[value % 4]
    number = numbers[value // 4 % len(numbers)] % 2 ** (8 * struct.calcsize(form))
    return data[:place] + struct.pack(form, number) + data[place + struct.calcsize(form) :]


PLACES = st.integers(0, 150) | st.integers(0, 2**20)  # headers first
WOUND = st.tuples(st.sampled_from([_flip, _cut, _drop, _repeat, _number, _number]), PLACES, st.integers(0, 255))


def wounded(victims: st.SearchStrategy[bytes], most: int = 6) -> st.SearchStrategy[bytes]:
    def wound(victim: bytes, wounds: list[tuple[Callable[[bytes, int, int], bytes], int, int]]) -> bytes:
        for change, place, value in wounds:
            victim = change(victim or b"\0", place, value)
        return victim

    return st.builds(wound, victims, st.lists(WOUND, max_size=most))


# --- images


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def animated(image: Image.Image, kind: str, **options: Any) -> bytes:
    # Copies: to be saved in one format leaves traces in an image that break its saving in another.
    return encoded(image.copy(), kind, save_all=True, append_images=[image.rotate(90), image.rotate(180)], **options)


def pictures() -> list[bytes]:
    """A photograph in every format, mode and with all that can be attached to it."""
    original = sample_files()[0].read_bytes()
    with Image.open(io.BytesIO(original)) as opened:
        photo = opened.convert("RGB").resize((48, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette, alpha = photo.quantize(32), photo.copy()
    alpha.putalpha(photo.convert("L"))
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    return [
        original,
        encoded(photo, "JPEG", exif=exif, icc_profile=b"no profile" * 10, comment=b"a comment"),
        encoded(photo, "JPEG", progressive=True),
        animated(photo, "MPO"),
        encoded(photo.convert("CMYK"), "JPEG"),
        encoded(photo.convert("CMYK"), "TIFF"),
        encoded(photo, "PNG", exif=exif, icc_profile=b"no profile" * 10),
        animated(photo, "PNG"),
        encoded(alpha, "PNG"),
        encoded(alpha, "WEBP"),
        encoded(palette, "PNG", transparency=3),
        encoded(palette, "GIF", transparency=3, comment=b"a comment"),
        animated(photo, "GIF"),
        encoded(photo.convert("1"), "PNG"),
        encoded(photo.convert("1"), "TIFF", compression="group4"),
        encoded(photo.convert("LA"), "PNG"),
        encoded(deep, "PNG"),
        encoded(deep, "TIFF", compression="tiff_lzw"),
        encoded(photo.copy(), "TIFF", compression="tiff_adobe_deflate", exif=exif),
        encoded(photo.copy(), "TIFF", compression="jpeg"),
        animated(photo, "TIFF"),
        encoded(photo, "WEBP", exif=exif, xmp=b"<x/>"),
        animated(photo, "WEBP", lossless=True),
        encoded(photo, "BMP"),
        encoded(palette, "BMP"),
    ]


def decodes_or_says_why(data: bytes) -> None:
    try:
        decoded = decode(data, CanvasSpec(16, 12))
    except BadImage as error:
        assert_one_line(error, 200)
    else:
        assert decoded.canvas.shape == (3, 12, 12) and decoded.canvas.dtype == np.uint8
        assert decoded.width > 0 and decoded.height > 0


@fuzz(1500)
@given(wounded(st.sampled_from(pictures())))
def test_images(data: bytes) -> None:
    decodes_or_says_why(data)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(side: int, *chunks: bytes, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@cache
def zeros(size: int) -> bytes:
    """Of a size that is not held in memory, compressed to a thousandth."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(size // 2**20 + 1)) + packer.flush()


def progressive(side: int, scans: int) -> bytes:
    """A JPEG that says that it is large, and has its last scan, which is empty, many times."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG", progressive=True))
    size = data.index(b"\xff\xc2") + 5
    data[size : size + 4] = struct.pack(">HH", side, side)
    last = data.rindex(b"\xff\xda")
    return bytes(data[:last] + data[last:-2] * scans + data[-2:])


def tiff(width: int, tile: int, compression: int) -> bytes:
    tags = [(256, width), (257, width), (258, 8), (259, compression), (262, 1), (277, 1)]
    tags += [(322, tile), (323, tile), (324, 8), (325, 1000)]
    body = zlib.compress(bytes(100_000))[:1000].ljust(1000, b"\0")
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


GIF = b"GIF89a\x08\0\x08\0\0\0\0"
BOMBS: dict[str, Callable[[], bytes]] = {
    "dimensions": lambda: png(50_000, data=zeros(2**20)),
    "a text of a gigabyte": lambda: png(8, chunk(b"zTXt", b"a\0\0" + zeros(2**30)), data=zlib.compress(bytes(200))),
    "a profile of a gigabyte": lambda: png(8, chunk(b"iCCP", b"a\0\0" + zeros(2**30)), data=zlib.compress(bytes(200))),
    "pixels of a gigabyte": lambda: png(8, data=zeros(2**30)),
    "millions of chunks": lambda: png(8, chunk(b"aaAa", b"") * 2_000_000, data=zlib.compress(bytes(200))),
    "16 bit, transparent": lambda: png(8192, depth=16, colour=6, data=zeros((8 * 8192 + 1) * 8192)),
    "thousands of scans": lambda: progressive(8192, 20_000),
    "millions of markers": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 15_000_000,
    "nothing but fill bytes": lambda: b"\xff\xd8" + b"\xff" * 60_000_000,
    "a comment in pieces": lambda: GIF + b"!\xfe" + (b"\xff" + b"a" * 255) * 200_000 + b"\0;",
    "millions of comments": lambda: GIF + b"!\xfe\1a\0" * 10_000_000 + b";",
    "a large tile": lambda: tiff(64, 32_768, 8),
    "a huge tile": lambda: tiff(64, 2**30, 8),
}


@pytest.mark.timeout(3 * SECONDS)  # bombs are made as well
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(bomb: str) -> None:
    decodes_or_says_why(BOMBS[bomb]())


# --- experiments


class Raw(str):
    """Stands in the YAML as it is."""

    __slots__ = ()


STRANGE = [
    *(".nan", "-.inf", "1e400", "1e308", "-1", "0", "0.5", "1/0", "4/255", "99999999999999999999", "0x" + "f" * 5000),
    *("9" * 5000, "9" * 60, "1000000001", "!!int x", "!!float x", "2020-13-45", "2020-01-01", "~", "true", "[]", "{}"),
    *('""', '"\\0"', '"\\ud800"', '"a\\x1b[31m\\nb"', '"\\u202e"', "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]"),
    *("!!python/object:os.system x", "!x y", "*nowhere", "&a [*a]", "{<<: {a: 1}}", "{[a]: 1}", "{1: 2}", "none"),
    *("[" * 40 + "]" * 40, "{a: " * 40 + "1" + "}" * 40, "[a, a]", "[[a], [a]]", "x" * 5000, "lite0", "packaged/x"),
    *(
        "1",
        "2",
        "3",
        "1/2",
        "0.9",
        "fgsm",
        "apgd",
        "square",
        "[lite0, own]",
        "l2",
        "ten-crop",
        "jpeg:quality=75",
        "false",
    ),
]


def as_yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_yaml(key)}: {as_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    return str(value) if isinstance(value, Raw) else json.dumps(value)


def changed(tree: Any, path: list[int], key: bool, written: str) -> Any:
    """The tree with something else in one place of it, or under another key."""
    if not path or not isinstance(tree, dict | list) or not tree:
        return Raw(written)
    here: list[tuple[Any, Any]] = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
    place = path[0] % len(here)
    name, inner = here[place]
    if key and len(path) == 1 and isinstance(tree, dict):
        here[place] = (Raw(written), inner)
    else:
        here[place] = (name, changed(inner, path[1:], key, written))
    return dict(here) if isinstance(tree, dict) else [each for _, each in here]


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("images")
    for file in sample_files()[:2]:
        (folder / file.name).write_bytes(file.read_bytes())
    lines = ["file,label", *(f"{file.name},{label_of(file)}" for file in sample_files()[:2])]
    (folder / "labels.csv").write_text("\n".join(lines))
    first = {"recipe": "pgd", "surrogates": ["lite0"], "norm": "l2", "eps": 3, "steps": 2, "eot": 2, "adaptive": True}
    shared = {"surrogates": ["lite0"], "eps": "4/255", "target": "megalith"}
    return {
        "name": "valid",
        "seed": 1,
        "chunk_size": 2,
        "images": {"folder": str(folder), "labels": "labels.csv", "select": [sample_files()[0].name], "limit": 2},
        "canvas": {"resize": 40, "crop": 32},
        "models": {
            "lite0": "packaged/efficientnet-lite0",
            "own": {"source": "packaged/efficientnet-lite0", "preprocessing": {"mean": [0.5, 0.5, 0.5]}},
        },
        "attacks": {
            "pgd": first,
            "parts": {**shared, "recipe": "vmi-di-ti-si", "neighbors": 2, "kernel_size": 7, "resize_rate": 1.1},
            "band": {**shared, "recipe": "mi-lf", "cutoff": 0.5, "alpha": "1/255", "objective": "logit"},
        },
        "targets": ["lite0", "own"],
        "views": ["center"],
        "defenses": [{"lowpass": {"cutoff": [0.7, 0.5]}}, ["jpeg:quality=75", {"noise": {"sigma": 0.1, "repeats": 2}}]],
        "keep_canvases": True,
    }


def loads_or_says_why(folder: Path, data: bytes, changes: tuple[str, ...] = ()) -> bool:
    """Whether it is an experiment; if so it is planned, or what it needs is not there."""
    path = folder / "experiment.yaml"
    path.write_bytes(data)
    try:
        prepare(load_experiment(str(path), changes), str(folder / "run"))
    except InputError as error:
        assert_one_line(error)
        return False
    return True


PATHS = st.lists(st.integers(0, 20), min_size=1, max_size=5)
FRAGMENTS = st.sampled_from(STRANGE) | st.sampled_from(STRANGE) | st.text(max_size=20)
CHANGES = st.lists(st.tuples(PATHS, st.booleans(), FRAGMENTS), min_size=1, max_size=2)


def test_the_experiment_that_is_changed_is_valid(valid: dict[str, Any], tmp_path: Path) -> None:
    assert loads_or_says_why(tmp_path, as_yaml(valid).encode())


@fuzz(150)
@given(CHANGES)
def test_experiments(tmp_path_factory: Any, valid: Any, changes: list[tuple[list[int], bool, str]]) -> None:
    for path, key, written in changes:
        valid = changed(valid, path, key, written)
    loads_or_says_why(tmp_path_factory.getbasetemp(), as_yaml(valid).encode("utf-8", "surrogatepass"))


@fuzz(100)
@given(st.data())
def test_damaged_files(tmp_path_factory: Any, valid: dict[str, Any], data: st.DataObject) -> None:
    written = st.just(as_yaml(valid).encode()) | st.just(json.dumps(valid, indent=1).encode())
    loads_or_says_why(tmp_path_factory.getbasetemp(), data.draw(wounded(written) | st.binary(max_size=100)))


KEYS = [*("seed", "attacks.pgd.eps", "models.lite0", "models.own.weights", "defenses", "attacks.pgd.steps", "a.b.c")]
SETTINGS = st.builds("{}={}".format, st.sampled_from(KEYS) | st.text(max_size=10), FRAGMENTS) | st.text(max_size=30)


@fuzz(80)
@given(st.lists(SETTINGS, min_size=1, max_size=2))
def test_settings(tmp_path_factory: Any, valid: dict[str, Any], written: list[str]) -> None:
    loads_or_says_why(tmp_path_factory.getbasetemp(), as_yaml(valid).encode(), tuple(written))


HUGE = {
    "aliases of aliases": "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 10)),
    "merges of merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}\n" for n in range(1, 40)),
    "nested without an end": "a: " + "[" * 100_000,
    "in itself": "&a {name: *a, models: *a, attacks: *a, defenses: *a}",
    "nested by aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000)),
    "ten megabytes": "name: " + "x" * 10_000_000,
    "a long list": "targets: [" + "x," * 65_000 + "]",
}


@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.parametrize("text", HUGE)
def test_huge_files(text: str, tmp_path: Path) -> None:
    assert not loads_or_says_why(tmp_path, HUGE[text].encode())


# --- labels, development kits, run.json


def reads_or_says_why(read: Callable[[str], Any], path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
        read(str(path))
    except InputError as error:
        assert_one_line(error)


@fuzz(300)
@given(wounded(st.sampled_from([b'File,Label\na.jpg,145\n"b, c.jpg",king penguin\nd.jpg,n02056570\n', b"image,class"])))
def test_labels(tmp_path_factory: Any, data: bytes) -> None:
    reads_or_says_why(read_labels, tmp_path_factory.getbasetemp() / "labels.csv", data)


def kit() -> bytes:
    kinds = np.dtype([("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)])
    synsets = np.array([(n + 1, class_wnid(n), 0) for n in range(3)], kinds).reshape(-1, 1)
    file = io.BytesIO()
    savemat(file, {"synsets": synsets})
    return file.getvalue()


@fuzz(200)
@given(wounded(st.just(b"1\n2\n3\n")))
def test_ground_truths(tmp_path_factory: Any, data: bytes) -> None:
    """Not of a damaged meta.mat: SciPy's reader, which is compiled, may crash on one."""
    folder = tmp_path_factory.getbasetemp() / "kit" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.mat").write_bytes(kit())
    truth = folder / "ILSVRC2012_validation_ground_truth.txt"
    reads_or_says_why(lambda _: read_devkit(str(folder / "meta.mat")), truth, data)


def packed(name: str, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size = size
    head, body = zlib.compressobj(9, wbits=31), header.tobuf()
    return head.compress(body) + b"".join(head.compress(bytes(2**20)) for _ in range(size >> 20)) + head.flush()


@fuzz(200)
@given(wounded(st.sampled_from([gzip.compress(bytes(100)), packed("data/meta.mat", 0)])))
def test_packed_development_kits(tmp_path_factory: Any, data: bytes) -> None:
    reads_or_says_why(read_devkit, tmp_path_factory.getbasetemp() / "kit.tar.gz", data)


@pytest.mark.timeout(3 * SECONDS)
def test_a_development_kit_that_unpacks_to_too_much(tmp_path: Path) -> None:
    (tmp_path / "kit.tar.gz").write_bytes(packed("data/meta.mat", 2**28))
    with pytest.raises(InputError, match="unpacks to more than") as caught:
        read_devkit(str(tmp_path / "kit.tar.gz"))
    assert_one_line(caught.value)


@fuzz(200)
@given(wounded(st.just(json.dumps(EMPTY_RUN).encode())) | st.binary(max_size=100))
def test_run_json(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "run-directory" / "run.json"
    reads_or_says_why(lambda _: read_record(Store(str(path.parent))), path, data)


# --- checkpoints


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


TENSORS = {name: torch.full_like(value, 7) for name, value in network().state_dict().items()}
MODULES = st.sampled_from(["module", "_orig_mod", "attacker", "model", "net", "network", "backbone"])
AROUND = st.lists(MODULES, max_size=3)
OUTER = st.sampled_from(["state_dict", "model_ema", "state_dict_ema", "model_state_dict", "model", "net"])
NAMES = st.sampled_from([*TENSORS, "normalizer.mean", "n_averaged", "module.", ".", "", "0", "model.0.weight"])
VALUES = st.sampled_from([*TENSORS.values(), None, 3, "x"])


def read_checkpoint(path: Path) -> nn.Module:
    with reading(path, "a network"):
        return state_dict_into(network)(path, torch.device("cpu"))


def holds(loaded: nn.Module) -> bool:
    return all(torch.equal(value, TENSORS[name]) for name, value in loaded.state_dict().items())


@fuzz(150)
@given(AROUND, st.lists(OUTER, max_size=3), st.booleans())
def test_a_network_is_found_whatever_is_around_it(
    tmp_path_factory: Any, around: list[str], outer: list[str], counted: bool
) -> None:
    saved: dict[str, Any] = {".".join([*around, name]): value for name, value in TENSORS.items()}
    saved |= {"n_averaged": torch.tensor(7)} if counted else {}
    for wrapper in outer:
        saved = {wrapper: saved, "epoch": 90, "arch": "x"}
    path = tmp_path_factory.getbasetemp() / "checkpoint.pt"
    torch.save(saved, path)
    assert holds(read_checkpoint(path))


@fuzz(150)
@given(st.dictionaries(NAMES | st.text(max_size=8), VALUES, max_size=8), AROUND)
def test_checkpoints(tmp_path_factory: Any, state: dict[str, Any], around: list[str]) -> None:
    """With tensors that others lack, that are too many, or of other shapes; and with what is no tensor."""
    path = tmp_path_factory.getbasetemp() / "checkpoint.pt"
    torch.save({".".join([*around, key]): value for key, value in state.items()} | TENSORS, path)
    try:
        assert holds(read_checkpoint(path))
    except InputError as error:
        assert_one_line(error)


def test_a_checkpoint_that_holds_itself(tmp_path: Path) -> None:
    state: dict[str, Any] = {}
    state["model"] = state
    torch.save(state, tmp_path / "circle.pt")
    with pytest.raises(InputError, match="not tensors by their names") as caught:
        read_checkpoint(tmp_path / "circle.pt")
    assert_one_line(caught.value)


# --- SQL

SQL = """
select from where group by all order limit * ( ) , ; ' " -- /* predictions attacks transfer images count(*) copy to
'/tmp/megalith-fuzz' attach create table insert into drop pragma set install load read_csv( read_parquet( glob(
'/etc/passwd' summarize describe explain pivot on using with x as union exclude null 1 0.5 enable_external_access =
true getenv('HOME') duckdb_settings() canvas::varchar avg(correct::int)
"""
WORDS = st.sampled_from(SQL.split())


@fuzz(300)
@given(st.lists(WORDS | st.text(max_size=6), max_size=12))
def test_queries(tmp_path_factory: Any, words: list[str]) -> None:
    """An answer or what DuckDB says of the query; and no file is written or read."""
    folder = tmp_path_factory.getbasetemp() / "queried"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(EMPTY_RUN))
    try:
        _, found = open_run(str(folder)).rows(" ".join(words))
        assert "root:" not in str(found)
    except InputError as error:
        assert str(error).startswith("sql: ")
    assert not Path("/tmp/megalith-fuzz").exists()  # noqa: S108 - which nobody writes
    assert [path.name for path in folder.iterdir()] == ["run.json"]

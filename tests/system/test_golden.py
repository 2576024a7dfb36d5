"""The golden test: rows are what they were before the house was rebuilt, and an old run directory still works.

`golden/run.tar.xz` is the run directory that commit cad6f1a made of `golden/experiment.yaml`. Floating-point kernels
differ between processors and between versions of libraries. Where both are those of `golden/platform.json`, every part
must be equal byte for byte, but for tables that have got columns since; elsewhere rows are compared by value.
"""

import json
import shutil
import tarfile
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.runs import Json, Row, contents, invoke, label_of, rows, run, sample_files

pytestmark = pytest.mark.system

GOLDEN = Path(__file__).parent / "golden"
_LIBRARIES = ("torch", "numpy", "onnxruntime", "pyarrow", "pillow", "scikit-image", "foolbox")
_CLOSE = 1e-3
"""Probabilities of clean canvases on another platform."""
_CHAOTIC = 0.1
"""Probabilities after an attack there: a sign of a gradient that is nearly 0 may be the other one."""
_DECIDED = 0.5
"""Margin, in log-probabilities, beyond which a model's answer is the same on every platform."""


def this_platform() -> Json:
    """What the last bit of a row depends on: the processor, and the libraries."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    said = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    flags = said.get("flags", said.get("Features", ""))
    return {
        "processor": said.get("model name", ""),
        "flags_sha256": sha256(flags.encode()).hexdigest(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of foolbox's samples with their labels, and a file that is no image."""
    folder = tmp_path_factory.mktemp("golden") / "images"
    folder.mkdir()
    files = sample_files()[2:4]
    for file in files:
        shutil.copy(file, folder)
    (folder / "broken.jpg").write_bytes(b"no image")
    lines = ["file,label", *(f"{file.name},{label_of(file)}" for file in files), "broken.jpg,7"]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The run directory of cad6f1a."""
    with tarfile.open(GOLDEN / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def _made(images: Path, output: Path, *options: str) -> Path:
    run(GOLDEN / "experiment.yaml", output, "--set", f"images.folder={images}", *options, code=3)
    return output


def _without_places(row: Row) -> Row:
    """But for the columns that have come since, too, which are null."""
    return {key: value for key, value in row.items() if key not in {"uri", "labelled_by"} or (key != "uri" and value)}


def _says_where(path: str) -> bool:
    """Parts whose rows hold the paths of images, which are where the test has put them."""
    return path.startswith(("images/", "failures/stage=load/"))


def test_a_new_run_has_the_tables_of_the_old_one(images: Path, old: Path, tmp_path: Path) -> None:
    new = _made(images, tmp_path / "new")
    before, now = contents(old), contents(new)
    assert now.keys() == before.keys()
    since = {
        "attacks",
        "predictions",
    }  # a table that has got columns, or whose columns may be null now, keeps its values
    for table in ("images", "failures"):
        assert list(map(_without_places, rows(new, table))) == list(map(_without_places, rows(old, table)))
    if this_platform() == json.loads((GOLDEN / "platform.json").read_text()):
        assert [path for path in now if now[path] != before[path] and not _says_where(path)] == [
            path for path in now if path.partition("/")[0] in since
        ]
        for table in since:
            for one, other in zip(rows(new, table), rows(old, table), strict=True):
                assert {key: one[key] for key in other} == other
    for table in ("attacks", "predictions"):
        for one, other in zip(rows(new, table), rows(old, table), strict=True):
            _assert_alike(one, other)


def _assert_alike(new: Row, old: Row) -> None:
    """The same row, made on another platform."""
    assert new.keys() >= old.keys()
    for key in ("image_id", "attack", "recipe", "label", "target", "eps", "seed", "model", "view", "defense"):
        assert new.get(key) == old.get(key)
    if old["attack"] == "none":
        assert new["confidence"] == pytest.approx(old["confidence"], abs=_CLOSE)
    elif "margin" in old:
        assert new["label_confidence"] == pytest.approx(old["label_confidence"], abs=_CHAOTIC)
        assert new["correct"] == old["correct"] or abs(old["margin"]) < _DECIDED
    else:
        assert new["linf"] == pytest.approx(old["linf"], abs=2 / 255)


def test_an_old_run_directory_is_read_verified_and_resumed(images: Path, old: Path) -> None:
    before = contents(old)
    answer = invoke("sql", old, "select count(*) as n from predictions where attack = 'mi'", "--format", "csv")
    assert answer.stdout == "n\n16\n"
    verified = invoke("verify", old, "--sample", "4")
    assert verified.exit_code == 0, verified.output
    said = invoke("plan", GOLDEN / "experiment.yaml", "--output", old, "--set", f"images.folder={images}")
    assert "to do: about 0 forward and 0 backward passes" in said.stdout, said.output
    _made(images, old)
    assert contents(old) == before


def test_an_old_run_directory_is_extended(images: Path, old: Path) -> None:
    before = contents(old)
    changes = ["attacks={more: {recipe: fgsm, surrogates: [lite1], eps: 4/255}}", "views=[center]", "defenses=[]"]
    _made(images, old, *(word for change in changes for word in ("--set", change)))
    after = contents(old)
    assert {path: after[path] for path in before} == before
    added = {path.rpartition("/")[0] for path in after.keys() - before.keys()}
    seen = {f"predictions/attack=more/model={model}/view=center/defense=none" for model in ("lite0", "lite1")}
    made = {"attacks/attack=more", "canvases/attack=more"}
    assert added == seen | made | {"failures/stage=attack/attack=more/model=none/view=none/defense=none"}

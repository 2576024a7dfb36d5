"""What docs/scale.md says of a large experiment, recomputed; and the stub model of its benchmark."""

import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.scale import install_stub, make_images, write_experiment
from pipeline.config.experiment import load_experiment
from pipeline.run.execute import MOST_FILES
from pipeline.run.plan import Plan, make_plan
from tests.support.runs import ROOT, rows, run, tiny, written
from transforms.data.chunks import ImageRef, make_chunks
from transforms.rows.parts import BUNDLED, GROUPS

PAGE = (ROOT / "docs" / "scale.md").read_text()
ATTACKS = ("fgsm", "bim", "pgd", "mi-fgsm", "ni-fgsm", "di-fgsm", "ti-fgsm", "si-fgsm", "vmi-fgsm", "ssa")
IMAGES, MODELS, DEFENSES = 50_000, 20, 12


def _cell(row: str) -> str:
    """The last cell of the row of the page's table that begins like this."""
    (found,) = re.findall(rf"^\| {re.escape(row)}.*\| (.*?) \|$", PAGE, flags=re.M)
    return str(found)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    models = {f"m{number}": "packaged/efficientnet-lite0" for number in range(MODELS)}
    section = tiny(
        chunk_size=16,
        models=models,
        attacks={name: {"recipe": name, "surrogates": ["m0"], "eps": "16/255"} for name in ATTACKS},
        targets=list(models),
        defenses={"lowpass": {"cutoff": [round(0.4 + 0.05 * number, 2) for number in range(DEFENSES)]}},
    )
    experiment = load_experiment(str(written(tmp_path_factory.mktemp("large"), section)))
    refs = [ImageRef(f"{number:05d}", "nowhere", 0) for number in range(IMAGES)]
    return make_plan(experiment, make_chunks(refs, 16), set())


def test_the_pages_tasks_and_passes(plan: Plan) -> None:
    assert _cell("tasks") == f"{len(plan.missing):,}"
    attacks = plan.attack_passes.values()
    assert _cell("passes of attacks") == f"{sum(forwards for forwards, _ in attacks):,}"
    assert _cell("passes of attacks") == f"{sum(backwards for _, backwards in attacks):,}"
    predictions, backwards = plan.missing.where("kind", ["predict"]).passes
    assert (_cell("passes of predictions"), backwards) == (f"{predictions:,}", 0)
    assert f"Σp = {sum(forwards for forwards, _ in attacks) // IMAGES}" in PAGE


def test_the_pages_files(plan: Plan) -> None:
    steps = [part for step, *_ in plan.missing.tally() for part in step.parts]
    chunks = len(plan.missing.images)
    at_the_end = sum(-(-chunks // GROUPS[part.table]) for part in steps)
    assert _cell("files, had each task its own") == f"{len(steps) * chunks:,}"
    assert _cell("files at the end") == f"{at_the_end:,}"
    # A file of its own has what is not bundled, and each place in which bundles may be.
    bundled = {part.bundles for part in steps if part.table in BUNDLED}
    alone = [part for part in steps if part.table not in BUNDLED]
    assert len(steps) * chunks > MOST_FILES
    assert _cell("files at once, while it is at work") == f"{(len(bundled) + len(alone)) * chunks:,}"
    assert (len(bundled) + len(alone)) * chunks <= 100_000


def test_the_pages_hours(plan: Plan) -> None:
    attacking = sum(forwards for forwards, _ in plan.attack_passes.values())
    predicting, _ = plan.missing.where("kind", ["predict"]).passes
    for worker in ("one core of the machine", "NVIDIA V100"):
        (line,) = re.findall(rf"^\| {worker}.*$", PAGE, flags=re.M)
        forward, both, hours = (float(cell.replace(",", "")) for cell in line.split("|")[2:5])
        assert (attacking / both + predicting / forward) / 3600 == pytest.approx(hours, rel=1e-3)
    assert _cell("money") == "58.4 · price"


def test_the_pages_bytes() -> None:
    sizes = re.findall(r"^\| an? .*\| ([\d.]+)( kB)? \| ([\d,]+) \| ([\d.]+) GB", PAGE, flags=re.M)
    assert len(sizes) == 4
    for each, kilo, count, total in sizes:
        found = float(each) * (1000 if kilo else 1) * int(count.replace(",", "")) / 1e9
        assert found == pytest.approx(float(total), rel=0.02)


@pytest.mark.system
def test_the_stub_goes_through_the_real_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images", 40)  # two of each sample
    files = sorted((tmp_path / "images").rglob("*.jpg"))
    assert len({file.read_bytes() for file in files}) == 40
    assert {Image.open(file).size for file in files} == {(40, 40)}
    write_experiment(tmp_path, 1)
    install_stub(tmp_path / "packages")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    run(tmp_path / "scale.yaml", tmp_path / "run")
    assert len(rows(tmp_path / "run", "predictions")) == 40 * 3 * 2
    assert all(row["linf"] <= 8 / 255 + 1e-9 for row in rows(tmp_path / "run", "attacks"))

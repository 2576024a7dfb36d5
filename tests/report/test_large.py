"""Large runs: the page stays small, is made in under a minute, and takes no more memory for more images."""

import subprocess
import sys
from functools import reduce
from operator import and_
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.report.page import report
from pipeline.results.record import RunRecord, write_record
from pipeline.results.tables import open_run
from tests.support.made import made_run
from tests.support.reported import png, random_run
from tests.support.runs import ROOT, sample_files
from transforms.data.decode import CanvasSpec, decode
from transforms.rows.parts import attacks_part, canvases_part, images_part, predictions_part
from transforms.rows.tables import TABLES
from transforms.storage.store import Store

pytestmark = pytest.mark.system

IMAGES = 10_000
CHUNK = 256


def test_real_pictures_of_many_attacks_fit_into_15_megabytes(tmp_path: Path) -> None:
    """Twenty photographs after 24 attacks: as many pictures as a page ever holds, each as large as they get."""
    draw = np.random.default_rng(0)
    canvases, attacks, predictions = [], [], []
    for file in sample_files():
        clean = decode(file.read_bytes(), CanvasSpec(resize=256, crop=224)).canvas.transpose(1, 2, 0)
        canvases.append({"image_id": file.stem, "canvas": png(clean)})
        for attack in (f"attack-{number:02d}" for number in range(24)):
            changed = np.clip(clean + draw.integers(-8, 9, clean.shape), 0, 255).astype(np.uint8)
            canvases.append({"image_id": file.stem, "attack": attack, "canvas": png(changed)})
            attacks.append({"image_id": file.stem, "attack": attack})
    for attack in ("none", *sorted({row["attack"] for row in attacks})):
        for model in ("m", "other", "third"):
            for cutoff in (1.0, 0.8, 0.6, 0.4):
                place = {"attack": attack, "model": model, "defense": f"lowpass:cutoff={cutoff}"}
                predictions += [
                    {"image_id": file.stem, "predicted": int(draw.integers(1000)), **each}
                    for file in sample_files()
                    for each in (place, {**place, "defense": "none"})[: 2 if cutoff == 1 else 1]
                ]
    run = open_run(str(made_run(tmp_path / "run", predictions, attacks, canvases=canvases)))
    assert 3e6 < len(report(run).encode()) < 15e6


def _grown(folder: Path) -> Path:
    """The rows of a small run over and over, as images of other names, compacted as a run of that size is."""
    run = open_run(str(random_run(folder / "small", images=CHUNK)))
    for table, make in (
        ("images", images_part),
        ("canvases", canvases_part),
        ("attacks", attacks_part),
        ("predictions", predictions_part),
    ):
        rows, partitions = run.dataset(table).to_table(), TABLES[table].partitions
        for keys in rows.select(partitions).group_by(partitions).aggregate([]).to_pylist() if partitions else [{}]:
            some = run.dataset(table).to_table(
                filter=reduce(and_, (pc.field(key) == keys[key] for key in keys), pc.scalar(True))
            )
            groups: dict[str, list[pa.Table]] = {}
            for chunk in range(IMAGES // CHUNK):
                names = pc.binary_join_element_wise(f"c{chunk:03d}", some["image_id"], "-")
                moved = some.set_column(0, TABLES[table].columns.field("image_id"), names)
                groups.setdefault(make(chunk, **keys).compacted, []).append(moved.select(TABLES[table].columns.names))
            for path, parts in groups.items():
                (folder / "large" / path).parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(pa.concat_tables(parts), folder / "large" / path, row_group_size=CHUNK)
    definitions = {**run.record.definitions.model_dump(), "chunk_size": CHUNK}
    definitions["images"] = {"count": IMAGES // CHUNK * CHUNK, "sha256": "", "segments": ()}
    record = {**run.record.model_dump(), "definitions": definitions}
    write_record(Store(str(folder / "large")), RunRecord.model_validate(record))
    return folder / "large"


MEASURED = """
import sys, time
from benchmarks.measuring import peak_memory
from pipeline.report.page import write_report
from pipeline.results.tables import open_run
begun = time.monotonic()
written = write_report(open_run(sys.argv[1]))
print(time.monotonic() - begun, written.stat().st_size, peak_memory())
"""


@pytest.mark.alone
def test_ten_thousand_images_make_a_page_in_a_minute_and_in_flat_memory(tmp_path: Path) -> None:
    """Of 5 attacks, 3 models, 2 views and 4 defences: 1.4 million answers. Memory is beside that of a small run."""
    large = _grown(tmp_path)
    measured = []
    for folder in (tmp_path / "small", large):
        line = [sys.executable, "-c", MEASURED, str(folder)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
        measured.append([float(each) for each in done.stdout.split()])
    (_, small_size, small_memory), (seconds, size, memory) = measured
    assert seconds < 60
    assert size < 15e6
    assert size < 2 * small_size
    assert memory < small_memory + 300, "MiB"

"""What a run counts and times, against the tables that it made."""

from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from tests.support.runs import Finished, costs, invoke, rows, run, stamps, tiny, what_was_counted, written
from transforms.steps.metrics import counted, recorded, timed, totals


@pytest.mark.system
def test_a_run_counts_what_it_made(tmp_path: Path) -> None:
    """Three images in two chunks: with the clean ones three kinds of canvases, each bare and behind one defence."""
    output = tmp_path / "run"
    said = run(written(tmp_path, tiny()), output).stdout
    (cost,) = costs(output)
    files = {path: (output / path).stat().st_size for path in stamps(output)}
    assert what_was_counted(output) == {
        "images_loaded": len(rows(output, "images")),
        "images_failed": 0,
        "attacks_made": len(rows(output, "attacks")),
        "predictions_made": len(rows(output, "predictions")),
        "bytes_written": sum(files.values()),
        "read": 3 + 3 + 3 * 3,  # images, then clean canvases to attack, and each kind once for all defences
        "decode": 3,
        "attack": 3 * 2,
        "defend": 3 * 3 * 2,
        "predict": 3 * 3 * 2,
        "rows": 3 + 3 * 2 + 3 * 3 * 2,
        "write": len(files),
    }
    assert all(each["seconds"] > 0 for each in cost["steps"].values())
    assert sum(each["seconds"] for each in cost["steps"].values()) < cost["seconds"]  # of a single worker
    table = said[said.index("Time of all workers") : said.index("Clean accuracy")]
    assert [name for name in cost["steps"] if name not in table] == []


@pytest.mark.system
def test_a_run_that_goes_on_counts_only_what_it_adds(tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    experiment = written(tmp_path, tiny(defenses={"jpeg": {"quality": [75, 50]}}))
    run(experiment, output)
    first, second = costs(output)
    added = what_was_counted(output)
    assert (added["images_loaded"], added["attacks_made"], added["predictions_made"]) == (0, 0, 9)
    assert set(added) & {"decode", "attack"} == set() and added["defend"] == added["predict"] == 9
    said = run(experiment, output).stdout
    assert costs(output) == [first, second] and "Time of" not in said


def test_an_image_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    broken = tmp_path / "images" / "broken.jpg"
    broken.parent.mkdir()
    broken.write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("file,label\nbroken.jpg,1\n")
    images = {"folder": str(broken.parent), "labels": str(tmp_path / "labels.csv")}
    invoke("run", written(tmp_path, tiny(images=images)), "--output", tmp_path / "run")
    (cost,) = costs(tmp_path / "run")
    assert (cost["counts"]["images_loaded"], cost["counts"]["images_failed"]) == (0, 1)
    assert "decode" not in cost["steps"]  # work that fails is not timed
    assert cost["steps"]["read"]["count"] == 1  # the file; there is no canvas


class Works(beam.DoFn):
    """Works on an element twice, and fails the second time."""

    def process(self, element: int) -> None:
        with timed("decode", element):
            counted("images_loaded", 1)
        with pytest.raises(ZeroDivisionError), timed("decode", element):
            _ = element / 0


def test_work_is_summed_over_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of work takes 2 ms of a clock that we turn; what fails takes none."""
    clock = iter(range(0, 10**9, 2_000_000))
    monkeypatch.setattr("transforms.steps.metrics.time.perf_counter_ns", lambda: next(clock))
    root = beam.Pipeline(runner="FnApiRunner")
    _: Any = root | beam.Create([3, 4]) | beam.ParDo(Works())
    result = root.run()
    result.wait_until_finish()
    found = totals(result.metrics())
    assert found == {"decode_microseconds": 4000, "decode_count": 7, "images_loaded": 2}
    assert recorded(found) == {
        "steps": {"decode": {"seconds": 0.004, "count": 7}},
        "counts": {"images_loaded": 2, **dict.fromkeys(["images_failed", "attacks_made"], 0)}
        | dict.fromkeys(["predictions_made", "bytes_written"], 0),
    }


def test_outside_of_a_pipeline_nothing_is_counted() -> None:
    with timed("decode", 1):
        counted("images_loaded", 1)

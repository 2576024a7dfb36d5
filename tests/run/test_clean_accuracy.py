"""The clean-accuracy check: who is told that something is wrong with a model, and in which words."""

from pathlib import Path

import pytest

from pipeline.run.clean_accuracy import CleanAccuracy
from tests.support.runs import run, sample_files, tiny, written


@pytest.mark.parametrize(
    ("correct", "of", "published", "implausible"),
    [
        pytest.param(10, 20, 0.81, True, id="far-below"),  # at most 0.7007, by Wilson's interval: less than 0.71
        pytest.param(10, 20, 0.80, False, id="not-far-below"),
        pytest.param(20, 20, 0.81, False, id="above"),
        pytest.param(100, 200, 0.70, True, id="by-less-of-more-images"),  # at most 0.5687
        pytest.param(0, 2, 0.70, False, id="few-images"),  # at most 0.6576
        pytest.param(0, 2, 0.77, True, id="few-images-of-a-better-model"),
        pytest.param(0, 0, 0.81, False, id="no-image"),
        pytest.param(5, 20, None, True, id="unknown-mostly-wrong"),  # at most 0.4687
        pytest.param(6, 20, None, False, id="unknown-perhaps-not"),  # at most 0.5190
        pytest.param(0, 4, None, True, id="unknown-few-images"),  # at most 0.4899
        pytest.param(0, 3, None, False, id="unknown-fewer-images"),  # at most 0.5615
        pytest.param(0, 0, None, False, id="unknown-no-image"),
    ],
)
def test_what_is_absurd(correct: int, of: int, published: float | None, implausible: bool) -> None:
    """The upper end of the interval against the published accuracy less ten points, or a half."""
    assert CleanAccuracy("m", correct, of, published).implausible == implausible


@pytest.mark.system
def test_a_model_far_below_what_was_published_is_warned_about(tmp_path: Path) -> None:
    """As where the labels are another list's: each image here is said to be a tench, which none is."""
    for file in sample_files()[:4]:
        (tmp_path / "images" / file.name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
    labels = "".join(f"{file.name},0\n" for file in sample_files()[:4])
    (tmp_path / "images" / "labels.csv").write_text(f"file,label\n{labels}")
    images = {"folder": str(tmp_path / "images"), "labels": "labels.csv"}
    models = {"lite0": "packaged/efficientnet-lite0"}
    experiment = tiny(images=images, models=models, attacks={}, defenses={})
    result = run(written(tmp_path, experiment), tmp_path / "run")
    assert "lite0: 0 of 4 clean images right\n" in result.stdout
    assert (
        "warning: lite0 is right on 0 of 4 clean images, far below the published 75.1%; "
        "check its weights, its preprocessing, and the labels\n"
    ) in result.stderr

"""Memory is flat in the number of images."""

import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.measuring import peak_memory
from tests.support.runs import IMAGENET_SAMPLE, MEGALITH, needs_imagenet_sample, rows, written

pytestmark = pytest.mark.system


def peak(experiment: Path, output: Path) -> float:
    """Peak resident memory of the real command, MiB."""
    command = [MEGALITH, "run", experiment, "--output", output, "--direct_num_workers=1"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    most = 0.0
    while process.poll() is None:
        most = max(most, peak_memory(process.pid))
        time.sleep(0.02)
    assert process.returncode == 0
    return most


@needs_imagenet_sample
def test_twice_the_images_take_no_more_memory(tmp_path: Path) -> None:
    """Each image is attacked, stored and predicted; 100 of them as float pixels would be 60 MB."""

    def experiment(images: int) -> Path:
        section = {
            "name": "memory",
            "chunk_size": 8,
            "images": {"folder": str(IMAGENET_SAMPLE), "labels": "labels.csv", "limit": images},
            "models": {"lite0": "coarse0"},
            "attacks": {"fgsm": {"recipe": "fgsm", "surrogates": ["lite0"], "eps": "4/255"}},
        }
        return written(tmp_path, section, f"{images}.yaml")

    few = peak(experiment(100), tmp_path / "100")
    many = peak(experiment(200), tmp_path / "200")
    assert len(rows(tmp_path / "100", "predictions")) == 2 * 100
    assert len(rows(tmp_path / "200", "predictions")) == 2 * 200
    assert few > 200_000 / 2**10
    assert many < 1.1 * few, f"peak: {few} with 100 images, {many} with 200"

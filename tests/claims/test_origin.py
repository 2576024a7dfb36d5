"""The origin's experiment, with weights made on the spot: five networks of Keras', one of them by way of ONNX."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.keras import calibrated
from tests.support.nasnet import NASNet
from tests.support.runs import IMAGENET_SAMPLE, ROOT, needs_imagenet_sample, refused, rows, run

pytestmark = [needs_imagenet_sample, pytest.mark.system]

ORIGIN = ROOT / "data" / "experiments" / "origin.yaml"
PICTURES = f"--set=images.folder={IMAGENET_SAMPLE}"
NAMES = {
    "resnet50": "ResNet50",
    "efficientnet": "EfficientNetB0",
    "densenet": "DenseNet201",
    "mobilenet": "MobileNetV2",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, nasnet: NASNet) -> dict[str, Path]:
    """Files by the names that the experiment gives the models."""
    folder = tmp_path_factory.mktemp("weights")
    files = {name: folder / f"{model}.weights.h5" for name, model in NAMES.items()}
    for name, path in files.items():
        calibrated(NAMES[name]).save_weights(path)
    return {**files, "nasnet": nasnet.path}


def test_five_networks_from_one_surrogate(weights: dict[str, Path], tmp_path: Path) -> None:
    models = {name: {"source": f"keras/{model}", "weights": str(weights[name])} for name, model in NAMES.items()}
    models["nasnet"] = {"source": f"onnx/{weights['nasnet']}"}
    changes = [f"models={json.dumps(models)}", "attacks.megalith.steps=2", "defenses={lowpass: {cutoff: [0.5]}}"]
    run(ORIGIN, tmp_path / "run", PICTURES, *(f"--set={each}" for each in changes))

    (attack,) = rows(tmp_path / "run", "attacks")
    assert (attack["surrogates"], attack["target"], attack["steps"]) == (["resnet50"], 649, 2)
    assert 0 < attack["linf"] <= 4 / 255 + 1e-9
    seen = {(row["model"], row["attack"], row["defense"]): row for row in rows(tmp_path / "run", "predictions")}
    assert len(seen) == 5 * 2 * 2
    confidences = [row["confidence"] for row in seen.values()]
    assert min(confidences) > 0 and len(set(confidences)) == 20  # each looked at another picture, or is another network
    described = json.loads((tmp_path / "run" / "run.json").read_text())["definitions"]["models"]
    for name, path in weights.items():
        assert described[name]["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert described[name]["engine"] == "onnxruntime"
    assert {name: model["preprocessing"]["channels"] for name, model in described.items() if name != "nasnet"} == {
        "resnet50": "BGR",
        **dict.fromkeys(("efficientnet", "densenet", "mobilenet"), "RGB"),
    }


def test_what_is_missing_is_said_in_one_line(nasnet: NASNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: Any, **_keys: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    line = refused(ORIGIN, tmp_path / "run", PICTURES, "--set=models.nasnet=onnx/missing.onnx")
    assert "onnx/missing.onnx" in line and "megalith export" in line
    line = refused(ORIGIN, tmp_path / "run", PICTURES, f"--set=models.nasnet=onnx/{nasnet.path}")
    assert f"keras/ResNet50: no {tmp_path}/cache/models/" in line and "(no route to host)" in line
    assert "https://storage.googleapis.com/" in line and "weights:" in line
    assert not (tmp_path / "run").exists()

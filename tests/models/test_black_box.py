"""Black boxes: predictions by ONNX Runtime, which have to be those of torch."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import Samples
from tests.support.runs import run, tiny, written
from transforms.models.answers import predict_batch
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.engines.by_onnxruntime import as_black_box
from transforms.models.pin import pin
from transforms.steps.held_models import HeldModels


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, Preprocessing(8, 8, "bilinear", mean=(0, 0, 0), std=(1, 1, 1)))


def test_labels_are_the_same_and_probabilities_within_one_in_ten_thousand(lite1: Classifier, samples: Samples) -> None:
    box = as_black_box(lite1)
    assert box is not lite1 and not box.differentiable and lite1.differentiable
    one, other = (predict_batch(each, "center", 224 / 256, samples.canvases, 8) for each in (lite1, box))
    assert torch.equal(one.argmax(dim=1), other.argmax(dim=1))
    assert (one.exp() - other.exp()).abs().max() < 1e-4


class Tricky(nn.Module):
    """Looks at its input to decide what to do, which is gone after tracing."""

    def forward(self, windows: Tensor) -> Tensor:
        flat = windows.flatten(1)
        return flat if float(windows.mean()) > 0.2 else -flat


class Spectral(nn.Module):
    """Computes what ONNX's tracing exporter does not know."""

    def forward(self, windows: Tensor) -> Tensor:
        return torch.fft.fft2(windows).abs().flatten(1)


@pytest.mark.parametrize("network", [Tricky(), Spectral()], ids=lambda each: type(each).__name__)
def test_what_would_say_something_else_stays_as_it_is(network: nn.Module) -> None:
    model = classifier(network)
    assert as_black_box(model) is model


def test_a_plain_network_does_not_stay_as_it_is() -> None:
    model = classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 1000)))
    box = as_black_box(model)
    windows = torch.rand(5, 3, 8, 8)
    assert box is not model and torch.allclose(box(windows), model(windows), atol=1e-5)


def test_a_held_model_has_gradients_and_its_target_none() -> None:
    pinned = pin("packaged/efficientnet-lite0")
    models = HeldModels({"white": pinned, "black": replace(pinned, black_box=True)}, "cpu")
    assert models["white"].differentiable and models["black"].differentiable
    assert models.target("white") is models["white"] and not models.target("black").differentiable


def test_who_is_a_black_box_stays_one(tmp_path: Path) -> None:
    """Adding an attack on a model that had only predicted changes none of its rows, and new ones are made like them."""
    path, output = written(tmp_path, tiny(targets=["lite0", "lite1"], defenses={})), tmp_path / "run"

    def black_boxes() -> dict[str, bool]:
        models = json.loads((output / "run.json").read_text())["definitions"]["models"]
        return {name: model["black_box"] for name, model in models.items()}

    run(path, output)
    assert black_boxes() == {"lite0": False, "lite1": True}
    run(path, output, "--set=attacks.more={recipe: fgsm, surrogates: [lite1], eps: 4/255}")
    assert black_boxes() == {"lite0": False, "lite1": True}

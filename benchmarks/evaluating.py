"""Predictions: images a second, by the engine that a run chooses, against the plain network."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import Measured, interleaved
from benchmarks.pictures import canvases, floats, listed, lite0, untrained
from transforms.models.classifier import Classifier
from transforms.models.engines.registry import FOLLOWED, PREDICTING, prepared

_BATCH = 8
_IMAGES = 32


def _answers(classifier: Classifier, pictures: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([classifier(each) for each in pictures.split(_BATCH)])


def measure(folder: str | None) -> Iterator[Measured]:
    """One forward pass for each image."""
    pictures = floats(canvases(listed(folder), _IMAGES))
    for name, plain in (("EfficientNet-Lite0", lite0()), ("resnet50, random weights", untrained("resnet50"))):
        labels = _answers(plain, pictures).argmax(dim=1)
        contenders = {
            "torch": plain,
            "ours, onnxruntime": prepared(plain, PREDICTING, "onnxruntime").classifier,
            "ours, fused": prepared(plain, FOLLOWED, "fused").classifier,
        }

        def same(found: Any, labels: Tensor = labels) -> str:
            return f"{(found.argmax(dim=1) == labels).float().mean():.1%} of labels alike"

        work = {key: lambda each=each: _answers(each, pictures) for key, each in contenders.items()}
        yield from interleaved(f"prediction, {name}", work, rounds=3, images=_IMAGES, notes=same)

"""Pins: a model with exactly these weights, shown pictures in exactly this way."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transforms.models.classifier import Preprocessing
from transforms.models.sources.registry import model_source

Engine = Literal["auto", "torch", "onnxruntime", "compiled"]
"""What runs a network when it predicts; auto is the quickest that agrees with torch on the device."""
GradientEngine = Literal["auto", "torch", "fused", "compiled"]
"""What runs a network when an attack follows its gradients; auto likewise."""


@dataclass(frozen=True)
class ModelPin:
    """A model with exactly these weights, shown pictures in exactly this way.

    Attributes:
        source: as an experiment spells it, e.g. `torchvision/resnet50@IMAGENET1K_V2`.
        weights: absolute path of a file that the experiment names, or None for the source's own weights.
        weights_sha256: of the weights file.
        preprocessing: as resolved from source and experiment.
        published: top-1 accuracy in [0, 1] on ImageNet's validation images, where it is known of these weights.
        published_robust: likewise under AutoAttack at 4/255 in L∞.
        engine: the one that predicts, a name in `engines.registry`, or auto where that has not been resolved.
        gradients: the one whose gradients are followed, likewise.
    """

    source: str
    weights: str | None
    weights_sha256: str
    preprocessing: Preprocessing
    published: float | None = None
    published_robust: float | None = None
    engine: str = "auto"
    gradients: str = "auto"


def pin(
    source: str,
    weights: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    engine: str = "auto",
    gradients: str = "auto",
) -> ModelPin:
    """Finds (downloads, if need be) a model's weights; raises InputError where they cannot be had."""
    found = model_source(source, weights, preprocessing)
    path = str(found.weights.absolute()) if found.local else None
    return ModelPin(
        source, path, found.digest(), found.preprocessing, found.published, found.published_robust, engine, gradients
    )

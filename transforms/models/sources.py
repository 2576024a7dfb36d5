"""Where models come from: names such as `packaged/efficientnet-lite0` or `torchvision/resnet50@IMAGENET1K_V2`."""

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from transforms.errors import InputError, printable, unknown
from transforms.models import own
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.weights import reading

CLASSES = 1000
"""ImageNet's: a model of this house answers with one logit for each, in their usual order."""

# Each source is a module of its own, imported when a model of it is named: torchvision alone takes seconds.
_SOURCES = {
    "keras": "transforms.models.from_keras",
    "onnx": "transforms.models.from_onnx",
    "packaged": "transforms.models.packaged",
    "timm": "transforms.models.from_timm",
    "torchvision": "transforms.models.from_torchvision",
}


@dataclass(frozen=True)
class ModelSource:
    """One model, before its weights are read.

    Attributes:
        name: the full name, as an experiment spells it.
        preprocessing: as its weights expect it.
        fetch: returns the local file with the weights, downloading it where the source has a download.
        read: makes the network from that file, reading tensors only, never code; it maps preprocessed windows
            (B, 3, input_size, input_size) to logits (B, 1000). May raise anything on a file that does not fit. The
            device is where the network is going to be used.
        differentiable: whether gradients can be had; otherwise the model is a black box that only predicts.
        published: top-1 accuracy on ImageNet's validation images in [0, 1], as published for these weights.
        local: the experiment itself says where the weights are, so they are not to be looked for elsewhere.
    """

    name: str
    preprocessing: Preprocessing
    fetch: Callable[[], Path]
    read: Callable[[Path, torch.device], nn.Module]
    differentiable: bool = True
    published: float | None = None
    local: bool = False

    def with_preprocessing(self, overrides: Mapping[str, Any]) -> "ModelSource":
        """The same weights, shown pictures differently in the keys that are given; raises InputError for wrong ones."""
        stated = {**asdict(self.preprocessing), **overrides}
        return replace(self, preprocessing=Preprocessing.stated(self.name, stated))

    def with_weights(self, path: Path) -> "ModelSource":
        """The same network with the weights of a local file, of which nothing is published."""
        return replace(self, fetch=lambda: path, published=None, local=True)

    @cached_property
    def weights(self) -> Path:
        """The local weights file; raises InputError, naming the file and where to get it, if it cannot be had."""
        path = Path(self.fetch())  # somebody's own may say it in a string
        if not path.is_file():
            raise InputError(f"{self.name}: no weights at {str(path)!r}")
        return path

    def digest(self) -> str:
        """SHA-256 of the weights file, hexadecimal."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def load(self, device: torch.device) -> Classifier:
        """Builds the network with its weights, freezes it on `device`, and shows it one grey picture.

        Raises:
            InputError: the file does not hold the weights of this network, or it does not give 1000 finite logits.
        """
        path = self.weights
        with reading(path, self.name):
            network = self.read(path, device)
        # Convolutions are faster with channels last, and no less exact.
        classifier = Classifier(network, self.preprocessing, self.differentiable).to(device)
        classifier = classifier.to(memory_format=torch.channels_last)
        self._try(classifier)
        return classifier

    def _try(self, classifier: Classifier) -> None:
        size = self.preprocessing.input_size
        try:
            with torch.inference_mode():
                logits = classifier(torch.full((1, 3, size, size), 0.5, device=classifier.device))
            shape = tuple(logits.shape)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise InputError(f"{self.name} fails on an input of {size} × {size}: {printable(error, 300)}") from None
        if shape != (1, CLASSES):
            raise InputError(f"{self.name} ({self.weights}): answers {shape} to one picture, not (1, {CLASSES}) logits")
        if not logits.isfinite().all():
            raise InputError(f"{self.name} ({self.weights}): its logits are not finite numbers")


class _SourceModule(Protocol):
    """What a module in `_SOURCES` offers."""

    def source(self, name: str, model: str) -> ModelSource:
        """Resolves what follows the slash of a full name; raises InputError if there is no such model."""

    def names(self) -> Iterable[str]:
        """What may follow the slash, as far as it can be listed with the packages that are installed."""


def model_source(name: str, weights: str | None = None, preprocessing: Mapping[str, Any] | None = None) -> ModelSource:
    """Resolves a model's name, without touching its weights.

    Args:
        name: `packaged/NAME`, `torchvision/NAME@WEIGHTS`, `timm/NAME` or `timm/NAME.TAG`, `keras/NAME`, `onnx/PATH`, or
            the name of an entry point in the group `megalith.models`.
        weights: a local file instead of the source's own weights.
        preprocessing: keys of `Preprocessing` that are to differ from what the source says.

    Raises:
        InputError: unknown source, model, weights or key; missing package; missing file.
    """
    kind, slash, model = name.partition("/")
    if weights is not None and not Path(weights).is_file():
        raise InputError(f"weights of {name}: no file {weights!r}; give the path of a file with weights")
    if kind == "onnx" and slash:
        # Such a file is its own weights, and what it does not say of its preprocessing the experiment has to.
        from_onnx = importlib.import_module(_SOURCES[kind])
        return cast(ModelSource, from_onnx.source(name, Path(weights or model), preprocessing or {}))
    found = _named(name)
    if weights is not None:
        found = found.with_weights(Path(weights))
    return found.with_preprocessing(preprocessing) if preprocessing else found


def source_names() -> list[str]:
    """All models that can be listed by their full names, each with each of its weights."""
    listed = [f"{kind}/{name}" for kind in _SOURCES for name in _module(kind).names()]
    return [*listed, *own.names()]


def needed(name: str, *packages: str) -> None:
    """Raises InputError, saying what to install, unless the packages that a model needs are there."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"{name} needs: pip install {' '.join(missing)}")


def _named(name: str) -> ModelSource:
    kind, slash, model = name.partition("/")
    if slash and kind in _SOURCES:
        return _module(kind).source(name, model)
    if name in own.names():
        found = own.load(name)
        if not isinstance(found, ModelSource):
            raise InputError(f"model {name}: its entry point returned a {type(found).__name__}, not a ModelSource")
        return replace(found, name=name)
    if kind in _SOURCES:
        raise InputError(f"unknown model source {kind!r}; name a model of it too, as in '{kind}/...'")
    # The first of each kind; a name with a slash is no short one, and need not wait for all libraries of models.
    known = () if slash else reversed(source_names())
    if alike := {each.split("/")[0]: each for each in known if _short(each) == name.lower()}:
        raise InputError(f"unknown model source {name!r}; did you mean {' or '.join(map(repr, alike.values()))}?")
    raise unknown("model source", kind, [*_SOURCES, *own.names()])


def _short(name: str) -> str:
    """`resnet50` of torchvision/resnet50@IMAGENET1K_V2, of timm/resnet50.a1_in1k and of keras/ResNet50."""
    return re.split("[@.]", name.rpartition("/")[2])[0].lower()


def _module(kind: str) -> _SourceModule:
    return cast(_SourceModule, importlib.import_module(_SOURCES[kind]))

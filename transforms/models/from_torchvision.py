"""torchvision's classifiers, `NAME@WEIGHTS`, with the preprocessing of their weights."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.transforms._presets import ImageClassification

from transforms.errors import InputError, unknown
from transforms.models.classifier import Preprocessing
from transforms.models.sources import ModelSource

# These two were trained on another scale and with extra heads: torchvision passes the same when it loads their weights.
_INCEPTION = {"transform_input": True, "aux_logits": True, "init_weights": False}
_PRETRAINED_ARGUMENTS = {"inception_v3": _INCEPTION, "googlenet": _INCEPTION}
# DenseNet's published files spell `norm.1` where its module has `norm1`.
_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def names() -> Iterator[str]:
    return (f"{model}@{weights}" for model in _classifiers() for weights in _weights_of(model))


def source(name: str, model: str) -> ModelSource:
    model, _, enum = model.partition("@")
    if model not in _classifiers():
        raise unknown("torchvision classifier", model, _classifiers())
    choices = _weights_of(model)
    if not enum:
        raise InputError(f"{name}: name its weights, as in 'torchvision/{model}@{next(iter(choices))}'")
    if enum not in choices:
        raise unknown(f"weights of torchvision's {model}", enum, choices)
    weights = choices[enum]

    def build() -> nn.Module:
        network: nn.Module = torchvision.models.get_model(model, weights=None, **_PRETRAINED_ARGUMENTS.get(model, {}))
        return network

    preprocessing = _preprocessing(weights.transforms())
    return ModelSource(name, preprocessing, build, lambda: _downloaded(name, weights.url), _modern_key)


def _classifiers() -> list[str]:
    classifiers: list[str] = torchvision.models.list_models(module=torchvision.models)
    return classifiers


def _weights_of(model: str) -> Mapping[str, WeightsEnum]:
    choices: Mapping[str, WeightsEnum] = torchvision.models.get_model_weights(model).__members__
    return choices


def _downloaded(name: str, url: str) -> Path:
    """The file in torch's own cache, downloaded and checked against the hash in its name if it is not there yet."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:  # no network; no such folder; the wrong hash
            raise InputError(
                f"{name}: no {path}, and downloading it failed ({error}); put {url} there, "
                "or give a local file as 'weights:'"
            ) from None
    return path


def _modern_key(key: str) -> str:
    return _DENSENET_KEY.sub(r"\1\2", key)


def _preprocessing(preset: ImageClassification) -> Preprocessing:
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

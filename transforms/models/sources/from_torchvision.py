"""torchvision's classifiers, `NAME@WEIGHTS`, with the preprocessing of their weights."""

import math
import re
from collections.abc import Iterator, Mapping

import torchvision
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.transforms._presets import ImageClassification

from transforms.errors import InputError, unknown
from transforms.models.classifier import Preprocessing
from transforms.models.sources.source import ModelSource
from transforms.models.sources.weights import downloaded, state_dict_into

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

    accuracy = weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100
    return ModelSource(
        name,
        _preprocessing(weights.transforms()),
        fetch=lambda: downloaded(name, weights.url),
        read=state_dict_into(build, _modern_key),
        published=None if math.isnan(accuracy) else accuracy,  # VGG's weights for features
    )


def _classifiers() -> list[str]:
    classifiers: list[str] = torchvision.models.list_models(module=torchvision.models)
    return classifiers


def _weights_of(model: str) -> Mapping[str, WeightsEnum]:
    choices: Mapping[str, WeightsEnum] = torchvision.models.get_model_weights(model).__members__
    return choices


def _modern_key(key: str) -> str:
    return _DENSENET_KEY.sub(r"\1\2", key)


def _preprocessing(preset: ImageClassification) -> Preprocessing:
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    red, green, blue = preset.mean
    red_std, green_std, blue_std = preset.std
    return Preprocessing(
        input_size=crop,
        resize=resize,
        interpolation=preset.interpolation.value,
        mean=(red, green, blue),
        std=(red_std, green_std, blue_std),
        antialias=bool(preset.antialias),
    )

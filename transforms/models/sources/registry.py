"""Where models come from: names such as `packaged/efficientnet-lite0` or `torchvision/resnet50@IMAGENET1K_V2`."""

import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from transforms.errors import InputError, unknown
from transforms.models.sources import plugins
from transforms.models.sources.source import ModelSource

# Each source is a module of its own, imported when a model of it is named: torchvision alone takes seconds.
_SOURCES = {
    "keras": "transforms.models.sources.from_keras",
    "onnx": "transforms.models.sources.from_onnx",
    "packaged": "transforms.models.sources.packaged",
    "robustbench": "transforms.models.sources.from_robustbench",
    "timm": "transforms.models.sources.from_timm",
    "torchvision": "transforms.models.sources.from_torchvision",
}


class _SourceModule(Protocol):
    """What a module in `_SOURCES` offers."""

    def source(self, name: str, model: str) -> ModelSource:
        """Resolves what follows the slash of a full name; raises InputError if there is no such model."""

    def names(self) -> Iterable[str]:
        """What may follow the slash, as far as it can be listed with the packages that are installed."""


def model_source(name: str, weights: str | None = None, preprocessing: Mapping[str, Any] | None = None) -> ModelSource:
    """Resolves a model's name, without touching its weights.

    Args:
        name: `packaged/NAME`, `torchvision/NAME@WEIGHTS`, `timm/NAME` or `timm/NAME.TAG`, `keras/NAME`,
            `robustbench/NAME`, `onnx/PATH`, or the name of an entry point in the group `megalith.models`.
        weights: a local file instead of the source's own weights.
        preprocessing: keys of `Preprocessing` that are to differ from what the source says.

    Raises:
        InputError: unknown source, model, weights or key; missing package; missing file.
    """
    kind, slash, model = name.partition("/")
    path = None if weights is None else Path(weights).expanduser()
    if path is not None and not path.is_file():
        raise InputError(f"weights of {name}: no file {str(path)!r}; give the path of a file with weights")
    if kind == "onnx" and slash:
        # Such a file is its own weights, and what it does not say of its preprocessing the experiment has to.
        from_onnx = importlib.import_module(_SOURCES[kind])
        return cast(ModelSource, from_onnx.source(name, path or Path(model).expanduser(), preprocessing or {}))
    found = _named(name)
    if path is not None:
        found = found.with_weights(path)
    return found.with_preprocessing(preprocessing) if preprocessing else found


def source_names() -> list[str]:
    """All models that can be listed by their full names, each with each of its weights."""
    listed = [f"{kind}/{name}" for kind in _SOURCES for name in _module(kind).names()]
    return [*listed, *plugins.names()]


def _named(name: str) -> ModelSource:
    kind, slash, model = name.partition("/")
    if slash and kind in _SOURCES:
        return _module(kind).source(name, model)
    if name in plugins.names():
        found = plugins.load(name)
        if not isinstance(found, ModelSource):
            raise InputError(f"model {name}: its entry point returned a {type(found).__name__}, not a ModelSource")
        return replace(found, name=name)
    if kind in _SOURCES:
        raise InputError(f"unknown model source {kind!r}; name a model of it too, as in '{kind}/...'")
    # The first of each kind; a name with a slash is no short one, and need not wait for all libraries of models.
    known = () if slash else reversed(source_names())
    if alike := {each.split("/")[0]: each for each in known if _short(each) == name.lower()}:
        raise InputError(f"unknown model source {name!r}; did you mean {' or '.join(map(repr, alike.values()))}?")
    raise unknown("model source", kind, [*_SOURCES, *plugins.names()])


def _short(name: str) -> str:
    """`resnet50` of torchvision/resnet50@IMAGENET1K_V2, of timm/resnet50.a1_in1k and of keras/ResNet50."""
    return re.split("[@.]", name.rpartition("/")[2])[0].lower()


def _module(kind: str) -> _SourceModule:
    return cast(_SourceModule, importlib.import_module(_SOURCES[kind]))

"""Where models come from: names such as `packaged/efficientnet-lite0` or `torchvision/resnet50@IMAGENET1K_V2`."""

import hashlib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from transforms.errors import InputError, unknown
from transforms.models.classifier import Classifier, Preprocessing

# Each source is a module of its own, imported when a model of it is named: torchvision alone takes seconds.
_SOURCES = {"packaged": "transforms.models.packaged", "torchvision": "transforms.models.from_torchvision"}


@dataclass(frozen=True)
class ModelSource:
    """One model, before its weights are read.

    Attributes:
        name: the full name, as an experiment spells it.
        preprocessing: as its weights expect it.
        build: makes the network, without weights.
        fetch: returns the local file with the weights, downloading it where the source has a download.
        rename: the network's name for a tensor, from its name in the file.
    """

    name: str
    preprocessing: Preprocessing
    build: Callable[[], nn.Module]
    fetch: Callable[[], Path]
    rename: Callable[[str], str] = str

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
            network.load_state_dict({self.rename(key): value for key, value in _state_dict(path).items()})
        except Exception as error:  # torch.load raises nearly anything on a file that is not what it says
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path} does not hold the weights of {self.name}: {reason}") from None
        # Convolutions are faster with channels last, and no less exact.
        return Classifier(network, self.preprocessing).to(device).to(memory_format=torch.channels_last)


class _SourceModule(Protocol):
    """What a module in `_SOURCES` offers."""

    def source(self, name: str, model: str) -> ModelSource:
        """Resolves what follows the slash of a full name; raises InputError if there is no such model."""

    def names(self) -> Iterable[str]:
        """What may follow the slash."""


def model_source(name: str, weights: str | None = None) -> ModelSource:
    """Resolves a model's name, without touching its weights.

    Args:
        name: `packaged/NAME` or `torchvision/NAME@WEIGHTS`.
        weights: a local checkpoint (a state dict) instead of the source's own weights.

    Raises:
        InputError: unknown source, model or weights; missing package; missing checkpoint.
    """
    kind, _, model = name.partition("/")
    if kind not in _SOURCES:
        raise unknown("model source", kind, _SOURCES)
    found = _module(kind).source(name, model)
    if weights is None:
        return found
    checkpoint = Path(weights)
    if not checkpoint.is_file():
        raise InputError(f"weights of {name}: no file {weights!r}; give the path of a state dict saved by torch.save")
    return ModelSource(name, found.preprocessing, found.build, lambda: checkpoint, found.rename)


def source_names() -> list[str]:
    """All models by their full names, each with each of its weights."""
    return [f"{kind}/{name}" for kind in _SOURCES for name in _module(kind).names()]


def _module(kind: str) -> _SourceModule:
    return cast(_SourceModule, importlib.import_module(_SOURCES[kind]))


def _state_dict(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    # Training scripts often wrap the state dict beside optimiser and epoch.
    state: dict[str, Tensor] = loaded.get("state_dict", loaded)
    return {key.removeprefix("module."): value for key, value in state.items()}

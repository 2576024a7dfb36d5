"""The contract of a model source: one model, before its weights are read."""

import hashlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transforms.errors import InputError, out_of_memory, printable
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.probes import probes
from transforms.models.sources.weights import reading

CLASSES = 1000
"""ImageNet's: a model of this house answers with one logit for each, in their usual order."""

BACKGROUND = "give preprocessing: {offset: 1} if the first is a background"
_ROUNDING = 0.01


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
        published_robust: likewise under AutoAttack at 4/255 in L∞.
        local: the experiment itself says where the weights are, so they are not to be looked for elsewhere.
    """

    name: str
    preprocessing: Preprocessing
    fetch: Callable[[], Path]
    read: Callable[[Path, torch.device], nn.Module]
    differentiable: bool = True
    published: float | None = None
    published_robust: float | None = None
    local: bool = False

    def with_preprocessing(self, overrides: Mapping[str, Any]) -> "ModelSource":
        """The same weights, shown pictures differently in the keys that are given; raises InputError for wrong ones."""
        stated = {**self.preprocessing.keys(), **overrides}
        return replace(self, preprocessing=Preprocessing.stated(self.name, stated))

    def with_weights(self, path: Path) -> "ModelSource":
        """The same network with the weights of a local file, of which nothing is published."""
        return replace(self, fetch=lambda: path, published=None, published_robust=None, local=True)

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
        """Builds the network with its weights, freezes it on `device`, and tries it on three pictures.

        Raises:
            InputError: the file does not hold the weights of this network, it does not give 1000 finite logits, or
                they depend on chance or on the other pictures of a batch.
        """
        path = self.weights
        with reading(path, self.name):
            network = self.read(path, device)
        self._compare(getattr(network, "normaliser", None))
        # Convolutions are faster with channels last, and no less exact.
        classifier = Classifier(network, self.preprocessing, self.differentiable).to(device)
        classifier = classifier.to(memory_format=torch.channels_last)
        self._try(classifier)
        return classifier

    def _compare(self, normaliser: tuple[tuple[float, ...], tuple[float, ...]] | None) -> None:
        """Refuses a checkpoint whose own normaliser contradicts the preprocessing, which takes its place."""
        shown = self.preprocessing
        if normaliser is None:
            return
        mean, std = ([round(value * shown.value_range, 6) for value in each] for each in normaliser)
        given, found = [*shown.mean, *shown.std], [*mean, *std]
        if not all(math.isclose(*pair, abs_tol=1e-3 * shown.value_range) for pair in zip(given, found, strict=True)):
            raise InputError(
                f"{self.name} ({self.weights}): its own normaliser has mean {mean} and std {std}, the preprocessing "
                f"{list(shown.mean)} and {list(shown.std)}; give preprocessing: {{mean: {mean}, std: {std}}}"
            )

    def _try(self, classifier: Classifier) -> None:
        size = self.preprocessing.input_size
        grey, pictures = torch.full((1, 3, size, size), 0.5), probes(2, size)
        try:
            with torch.inference_mode():
                first, alone, again, together = (
                    classifier(each.to(classifier.device)) for each in (grey, pictures[:1], pictures[:1], pictures)
                )
        except Exception as error:
            if out_of_memory(error):
                raise
            raise InputError(f"{self.name} fails on an input of {size} × {size}: {printable(error, 300)}") from None
        shape, this = tuple(first.shape), f"{self.name} ({self.weights})"
        if shape != (1, CLASSES):
            hint = f"; {BACKGROUND}" if shape[1:] == (CLASSES + 1,) else ""
            raise InputError(f"{this}: answers {shape} to one picture, not (1, {CLASSES}) logits{hint}")
        if not first.isfinite().all():
            raise InputError(f"{this}: its logits are not finite numbers")
        if _differ(alone, again):
            raise InputError(f"{this}: its answers differ from call to call, as with a dropout that is left on")
        if _differ(alone, together[:1]):
            raise InputError(
                f"{this}: its answers depend on the other pictures of the batch, as with batch statistics in evaluation"
            )


def _differ(logits: Tensor, others: Tensor) -> bool:
    """Whether two answers to one picture, (1, CLASSES), are further apart than kernels round that sum in other orders.

    Kernels that sum in other orders differ by at most 1.5e-6 of the logits' range in a dozen float32 networks of
    torchvision and timm, and by about one step of 1/255 where activations have 8 bits.
    """
    slack = _ROUNDING * (logits.max() - logits.min()) + 1e-5 * (1 + logits.abs().max())
    return bool((logits - others).abs().max() > slack)


def needed(name: str, *packages: str) -> None:
    """Raises InputError, saying what to install, unless the packages that a model needs are there."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"{name} needs: pip install {' '.join(missing)}")

"""Models as DoFns hold them: named and pinned when the graph is built, loaded at most once per worker process."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from apache_beam.utils.shared import Shared

from transforms.errors import InputError
from transforms.models.black_box import as_black_box
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.sources import model_source


@dataclass(frozen=True)
class ModelPin:
    """A model with exactly these weights, shown pictures in exactly this way.

    Attributes:
        source: as an experiment spells it, e.g. `torchvision/resnet50@IMAGENET1K_V2`.
        weights: absolute path of a file that the experiment names, or None for the source's own weights.
        weights_sha256: of the weights file.
        preprocessing: as resolved from source and experiment.
        published: top-1 accuracy in [0, 1] on ImageNet's validation images, where it is known of these weights.
        black_box: whether predictions are made without any regard to gradients, see `as_black_box`.
    """

    source: str
    weights: str | None
    weights_sha256: str
    preprocessing: Preprocessing
    published: float | None = None
    black_box: bool = False


def pin(source: str, weights: str | None = None, preprocessing: Mapping[str, Any] | None = None) -> ModelPin:
    """Finds (downloads, if need be) a model's weights; raises InputError where they cannot be had."""
    found = model_source(source, weights, preprocessing)
    path = str(found.weights.absolute()) if found.local else None
    return ModelPin(source, path, found.digest(), found.preprocessing, found.published)


class HeldModels:
    """The models of an experiment by name, each loaded when first asked for and shared by all DoFns of a process.

    So a run that adds one model to many loads one. `models[name]` has gradients, if any has; `models.target(name)` is
    for predictions. Picklable: what is loaded stays behind.
    """

    def __init__(self, pins: Mapping[str, ModelPin], device: str) -> None:
        self._pins = dict(pins)
        self._device = device
        self._shared = {(name, target): Shared() for name in pins for target in (False, True)}
        self._loaded: dict[tuple[str, bool], Classifier] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_loaded": {}}

    @property
    def device(self) -> torch.device:
        """Where the models are; raises InputError if it is not there."""
        return torch_device(self._device)

    def __getitem__(self, name: str) -> Classifier:
        """Raises InputError if the weights found here are not those that the run was started with."""
        return self._held(name, target=False)

    def target(self, name: str) -> Classifier:
        """The model as it predicts; raises InputError like `models[name]`."""
        return self._held(name, target=self._pins[name].black_box)

    def _held(self, name: str, *, target: bool) -> Classifier:
        key = (name, target)
        if key not in self._loaded:
            self._loaded[key] = self._shared[key].acquire(partial(self._load, self._pins[name], black_box=target))
        return self._loaded[key]

    def _load(self, pinned: ModelPin, *, black_box: bool) -> Classifier:
        prepare_torch()
        source = model_source(pinned.source, pinned.weights, asdict(pinned.preprocessing))
        if source.digest() != pinned.weights_sha256:
            raise InputError(f"{source.weights}: not the weights of {source.name} that this run was started with")
        loaded = source.load(self.device)
        return as_black_box(loaded) if black_box else loaded


def torch_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; raises InputError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in {"cpu", "cuda"}:
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"device: {name!r} is not available here; use auto, cpu or cuda") from None
    return device


def prepare_torch() -> None:
    """Makes results repeatable, bit for bit: kernels sum in another order with other threads, or as cuDNN pleases."""
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False

"""Models as DoFns hold them: named and pinned when the graph is built, loaded once per worker process."""

from dataclasses import dataclass

import torch
from apache_beam.utils.shared import Shared

from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.sources import model_source


@dataclass(frozen=True)
class ModelPin:
    """A model with exactly these weights.

    Attributes:
        source: as an experiment spells it, e.g. `torchvision/resnet50@IMAGENET1K_V2`.
        weights: path of a local checkpoint, or None for the source's own weights.
        weights_sha256: of the weights file.
    """

    source: str
    weights: str | None
    weights_sha256: str


def pin(source: str, weights: str | None = None) -> ModelPin:
    """Finds (downloads, if need be) a model's weights; raises InputError where they cannot be had."""
    return ModelPin(source, weights, model_source(source, weights).digest())


class HeldModel:
    """A classifier shared by all DoFns of a process; picklable, because it is empty until `get`."""

    def __init__(self, pinned: ModelPin, device: str) -> None:
        self._pinned = pinned
        self._device = device
        self._shared = Shared()

    def get(self) -> Classifier:
        """Loads the model, unless someone in this process holds it already.

        Raises:
            InputError: the weights found here are not those that the run was started with.
        """
        classifier: Classifier = self._shared.acquire(self._load)
        return classifier

    def _load(self) -> Classifier:
        prepare_torch()
        source = model_source(self._pinned.source, self._pinned.weights)
        if source.digest() != self._pinned.weights_sha256:
            raise InputError(f"{source.weights}: not the weights of {source.name} that this run was started with")
        return source.load(torch_device(self._device))


def torch_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one; raises InputError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
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

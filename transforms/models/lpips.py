"""LPIPS: how far apart two pictures are in the features of a network, weighed as people judge
(Zhang et al. 2018, arXiv:1801.03924)."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal, get_args
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from transforms.data.pixels import WHITE, Pixels
from transforms.errors import InputError, out_of_memory, printable
from transforms.models.batches import in_micro_batches
from transforms.models.conditions import Conditions
from transforms.models.pin import ModelPin
from transforms.models.sources.registry import model_source

Net = Literal["alex", "vgg", "squeeze"]
BACKBONES: dict[str, str] = dict(
    zip(
        get_args(Net),
        (f"torchvision/{each}@IMAGENET1K_V1" for each in ("alexnet", "vgg16", "squeezenet1_1")),
        strict=True,
    )
)
"""The network whose features each compares; the package has the weights of its layers, and none of its own."""


def require_lpips() -> None:
    """Raises InputError where the package is not installed."""
    if find_spec("lpips") is None:
        raise InputError("the package lpips is not installed; pip install lpips, or leave the key out")


@dataclass(frozen=True)
class Lpips:
    """The package's version 0.1 of the measure. Small and picklable: a process loads the network once.

    Attributes:
        net: which network.
        backbone: it, with its weights.
    """

    net: Net
    backbone: ModelPin

    def check(self, side: int, conditions: Conditions) -> None:
        """Measures a grey canvas of so many pixels.

        Raises:
            InputError: what `distances` raises, weights that do not fit, or a canvas too small for the network.
        """
        grey = np.full((1, 3, side, side), WHITE // 2, np.uint8)
        try:
            self.distances(grey, grey, conditions)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise InputError(
                f"lpips: {self.net} cannot look at canvases of {side} pixels: {printable(error)}"
            ) from None

    def distances(self, clean: Pixels, adversarial: Pixels, conditions: Conditions) -> NDArray[np.float32]:
        """Between canvases, uint8 (N, 3, S, S) each, at least one: float32 (N,), from 0.

        Raises:
            InputError: the package is not installed, or the weights are not those that the run was started with.
        """
        network, place = _loaded(self.net, self.backbone, conditions.place), conditions.place

        def work(items: list[int]) -> tuple[Tensor]:
            shown = (torch.from_numpy(each[items]).to(place).float() / WHITE for each in (clean, adversarial))
            with torch.inference_mode():
                return (network(*shown, normalize=True).flatten().cpu(),)

        (found,) = in_micro_batches(work, len(clean), conditions.micro_batch)
        return found.numpy()


@cache
def _loaded(net: Net, backbone: ModelPin, place: torch.device) -> nn.Module:
    require_lpips()
    from lpips import LPIPS  # noqa: PLC0415 - not everyone has it

    source = model_source(backbone.source, backbone.weights)
    if source.digest() != backbone.weights_sha256:
        raise InputError(f"{source.weights}: not the weights of {source.name} that this run was started with")
    features = source.load(place).network.get_submodule("features").state_dict()
    with catch_warnings():
        simplefilter("ignore")  # torchvision's, of how the package names its weights
        network: nn.Module = LPIPS(net=net, pnet_rand=True, verbose=False)
    layers = network.get_submodule("net")  # slice1.0.weight is what torchvision calls features.0.weight
    layers.load_state_dict({name: features[name.partition(".")[2]] for name in layers.state_dict()})
    return network.requires_grad_(False).eval().to(place)

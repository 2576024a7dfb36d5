"""A network together with the way its weights expect to be shown a picture."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Preprocessing:
    """What turns pixels in [0, 1] into a network's input.

    Attributes:
        input_size: side of the square input, pixels.
        field: the part of the image's centre square that the network was evaluated on when its accuracy was
            published: crop / resize of its own preprocessing, in (0, 1].
        interpolation: how a window of another size is resized: "bilinear" or "bicubic" (antialiased).
        mean, std: per channel (RGB), in the unit of [0, 1] pixels.
    """

    input_size: int
    field: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def window(self, side: int, field: float) -> int:
        """Side (pixels) of the window that the network should see of a canvas of `side` pixels.

        `field` is the part of the image's centre square that the canvas itself holds. The network is shown the
        field it was evaluated on, as far as the canvas holds it; a window smaller than the network's input is
        never enlarged while the canvas has more to show.
        """
        own_field = round(side * self.field / field)
        return min(side, max(own_field, self.input_size))


class Classifier(nn.Module):
    """Maps windows of a canvas, float (B, 3, h, h) in [0, 1], to logits (B, classes); differentiable, frozen."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where windows must be."""
        return self.mean.device

    def forward(self, windows: Tensor) -> Tensor:
        size = self.preprocessing.input_size
        if windows.shape[-1] != size:
            mode = self.preprocessing.interpolation
            # Bicubic interpolation overshoots; an 8-bit resize would have clipped as well.
            windows = F.interpolate(windows, size=(size, size), mode=mode, antialias=True).clamp(0, 1)
        logits: Tensor = self.network((windows - self.mean) / self.std)
        return logits

"""A network together with the way its weights expect to be shown a picture."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transforms.errors import InputError, unknown
from transforms.models.layers import Layer, layers_of, usual_layer
from transforms.models.probes import probes

# Pillow's nearest takes the pixel at the centre, as torch's "nearest-exact" does; torch's "nearest" does not.
_MODES = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest-exact"}


@dataclass(frozen=True)
class Preprocessing:
    """What turns pixels in [0, 1] into a network's input.

    Attributes:
        input_size: side of the square input, pixels.
        resize: short side, in pixels, to which an image was resized before the square of `input_size` was cut from its
            centre when the network's accuracy was published.
        interpolation: how a window of another size is resized: "bilinear", "bicubic" or "nearest".
        mean, std: of red, green and blue (in this order, whatever `channels` says), in the unit of `value_range`: the
            network's input is (pixel · value_range − mean) / std.
        antialias: whether resizing to fewer pixels filters first, as Pillow does. Nearest never does.
        value_range: what white is before mean and std: 1.0 or 255.0.
        channels: the order in which the network takes them, "RGB" or "BGR".
        offset: how many of the network's answers come before ImageNet's classes, such as a background; left out.
        outputs: what the network answers with, "logits" or "probabilities"; None where nobody says, and logits are
            meant. Probabilities become their logarithms, whose softmax they are, divided by their sum.
    """

    input_size: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    antialias: bool = True
    value_range: float = 1.0
    channels: str = "RGB"
    offset: int = 0
    outputs: str | None = None

    def keys(self) -> dict[str, Any]:
        """As `stated` reads them; what hardly any network needs is left out where it is not needed."""
        found = asdict(self)
        return {key: value for key, value in found.items() if key not in _RARE or value != _RARE[key]}

    @classmethod
    def stated(cls, model: str, keys: Mapping[str, Any]) -> "Preprocessing":
        """Reads what a file or an experiment states of every key; lists do for tuples.

        Raises:
            InputError: a key is unknown or lacking, or its value makes no sense; the message begins with `model`.
        """
        names = [field.name for field in fields(cls)]
        for key, value in keys.items():
            if key not in names:
                raise unknown(f"preprocessing key of {model}", key, names)
            fits, right = _RULES[key]
            if not fits(value):
                raise InputError(f"{model}: preprocessing.{key} is {value!r}; give {right}")
        if missing := [name for name in names if name not in keys and name not in _RARE]:
            raise InputError(f"{model}: give its preprocessing, which nothing else says: {', '.join(missing)}")
        values: dict[str, Any] = {**keys, "mean": tuple(keys["mean"]), "std": tuple(keys["std"])}
        return cls(**values)

    @property
    def field_of_view(self) -> float:
        """The part of the image's centre square that the network was evaluated on, in (0, 1]."""
        return min(1.0, self.input_size / self.resize)

    def window(self, side: int, field_of_view: float) -> int:
        """Side (pixels) of the window that the network should see of a canvas of `side` pixels.

        `field_of_view` is the part of the image's centre square that the canvas itself holds. The network is shown the
        field it was evaluated on, as far as the canvas holds it; a window smaller than the network's input is
        never enlarged while the canvas has more to show.
        """
        own = round(side * self.field_of_view / field_of_view)
        return min(side, max(own, self.input_size))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_three(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == len("RGB") and all(map(_is_number, value))


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "input_size": (_is_side, "a whole number of pixels"),
    "resize": (_is_side, "a whole number of pixels"),
    "interpolation": (lambda value: value in list(_MODES), "bilinear, bicubic or nearest"),
    "mean": (_are_three, "three numbers: of red, green and blue"),
    "std": (lambda value: _are_three(value) and min(value) > 0, "three positive numbers: of red, green and blue"),
    "antialias": (lambda value: isinstance(value, bool), "true or false"),
    "value_range": (lambda value: _is_number(value) and value in (1, 255), "1.0 or 255.0, what white is"),
    "channels": (lambda value: value in ("RGB", "BGR"), "RGB or BGR"),
    "offset": (lambda value: value == 0 or _is_side(value), "a whole number of classes"),
    "outputs": (lambda value: value in ("logits", "probabilities"), "logits or probabilities"),
}
_RARE = {"offset": 0, "outputs": None}


def _range(windows: Tensor) -> tuple[Tensor, Tensor]:
    """How far down and up each picture may reach when it is resized, (B, 1, 1, 1) each.

    Bicubic interpolation overshoots, and an 8-bit resize would have clipped at 0 and 1. But attacks look beyond these
    themselves, around their canvas or ahead of it, where a clipped picture would have no gradient.
    """
    values = windows.detach()
    return values.amin((1, 2, 3), keepdim=True).clamp(max=0), values.amax((1, 2, 3), keepdim=True).clamp(min=1)


class Classifier(nn.Module):
    """Maps windows of a canvas, float (B, 3, h, h) in [0, 1], to logits (B, classes); frozen.

    Attributes:
        differentiable: whether gradients of the logits with respect to the windows can be had.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, differentiable: bool = True) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network
        self.differentiable = differentiable
        self.mean: Tensor
        self.std: Tensor
        white = preprocessing.value_range
        self.register_buffer("mean", torch.tensor([value / white for value in preprocessing.mean]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([value / white for value in preprocessing.std]).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where windows must be."""
        return self.mean.device

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The network's layers, in the order in which they answer."""
        return layers_of(self.network, self, probes(2, self.preprocessing.input_size).to(self.device))

    def layer(self, name: str | None) -> str:
        """A layer, or the usual one where no name is given (`usual_layer`); raises InputError where there is none."""
        if name is None:
            return usual_layer(self.layers, self.preprocessing.input_size)
        if name not in (names := [each.name for each in self.layers]):
            if name in dict(self.network.named_modules()):
                raise InputError(
                    f"layer {name!r} answers more than once in a pass, or not with one tensor; take another"
                )
            raise unknown("layer", name, names)
        return name

    def forward(self, windows: Tensor) -> Tensor:
        expected = self.preprocessing
        if windows.shape[-1] != expected.input_size:
            mode, size = expected.interpolation, (expected.input_size, expected.input_size)
            antialias = expected.antialias and mode != "nearest"
            resized = F.interpolate(windows, size=size, mode=_MODES[mode], antialias=antialias)
            windows = resized.clamp(*_range(windows))
        shown = (windows - self.mean) / self.std
        answers: Tensor = self.network(shown.flip(1) if expected.channels == "BGR" else shown)
        answers = answers[:, expected.offset :] if expected.offset else answers
        if expected.outputs == "probabilities":
            return answers.clamp_min(torch.finfo(answers.dtype).tiny).log()
        return answers

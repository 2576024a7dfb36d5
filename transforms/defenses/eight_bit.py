"""Between 8-bit canvases and what computes on them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transforms.data.pixels import WHITE
from transforms.errors import InputError

Picture = npt.NDArray[Any]
"""uint8 (S, S, 3), contiguous: a canvas as Pillow, OpenCV and scikit-image want it."""


def up_to_white(what: str, value: float) -> None:
    """Raises InputError unless a length in the unit of [0, 1] pixels is in (0, 1]."""
    if not 0 < value <= 1:
        meant = f"; did you mean {value:g}/255?" if 1 < value <= WHITE else ""
        raise InputError(f"{what} {value} is not in (0, 1], the range of a pixel{meant}")


def to_8bit(levels: Tensor) -> Tensor:
    """Floats in levels (0–255), rounded and clipped to uint8. Half a level goes to the even neighbour."""
    # Exact halves are common (a canvas's mean, say); the last bit of a sum must not decide how they are rounded.
    return ((levels * 2**20).round() / 2**20).round().clamp(0, WHITE).to(torch.uint8)


def picture_by_picture(canvases: Tensor, change: Callable[[Picture], Picture]) -> Tensor:
    """Applies a function of one picture to each canvas, uint8 (B, 3, S, S), on the CPU; returns the same shape."""
    pictures = [np.ascontiguousarray(canvas.permute(1, 2, 0).numpy()) for canvas in canvases.cpu()]
    if not pictures:
        return canvases
    changed = np.stack([change(picture) for picture in pictures])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous().to(canvases.device)

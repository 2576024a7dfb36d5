"""Gradient filters: convolutions of a gradient before momentum."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.surrogates import Transform
from transforms.ranges import above, odd

Kernel = Literal["gaussian", "linear", "uniform"]


def blur(kernel: Kernel, size: int, sigma: float) -> Transform:
    """Convolves each channel with a kernel, black beyond the border: what averaging the gradients of shifted canvases
    amounts to (Dong et al. 2019, arXiv:1904.02884, §3.3).

    Args:
        kernel: how the weights fall from the middle: as a normal density, linearly to 0 just beyond the border, or not.
        size: side of the kernel, odd, pixels.
        sigma: how many standard deviations a Gaussian reaches to either side, as in the paper's code; so a larger one
            makes it narrower.

    Raises:
        InputError: a size or sigma out of range.
    """
    odd(kernel_size=size)
    above(0, kernel_sigma=sigma)
    places = torch.linspace(-1, 1, size, dtype=torch.float64)
    line = {
        "gaussian": torch.exp(-0.5 * (sigma * places) ** 2),
        "linear": 1 - places.abs() * (size - 1) / (size + 1),
        "uniform": torch.ones_like(places),
    }[kernel]
    plane = torch.outer(line, line) / line.sum() ** 2
    weights = plane.float().expand(3, 1, size, size)

    def convolve(gradient: Tensor) -> Tensor:
        return F.conv2d(gradient, weights.to(gradient), padding="same", groups=3)

    return convolve

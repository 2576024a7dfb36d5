"""Gradient filters."""

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.surrogates import Transform
from transforms.errors import InputError


def gaussian(size: int, sigma: float) -> Transform:
    """Convolves each channel with a Gaussian, black beyond the border: what averaging the gradients of shifted
    canvases amounts to (Dong et al. 2019, arXiv:1904.02884).

    Args:
        size: side of the kernel, odd, pixels.
        sigma: half the kernel's side in units of its standard deviation, as in the paper's code.

    Raises:
        InputError: a size or sigma out of range.
    """
    if size < 3 or size % 2 == 0:  # noqa: PLR2004 - 1 would have no effect
        raise InputError(f"kernel_size: {size} is not odd and at least 3")
    if sigma <= 0:
        raise InputError(f"kernel_sigma: {sigma} is not positive")
    line = torch.exp(-0.5 * torch.linspace(-sigma, sigma, size, dtype=torch.float64) ** 2)
    plane = torch.outer(line, line) / line.sum() ** 2
    kernel = plane.float().expand(3, 1, size, size)

    def convolve(gradient: Tensor) -> Tensor:
        return F.conv2d(gradient, kernel.to(gradient), padding="same", groups=3)

    return convolve

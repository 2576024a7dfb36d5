"""Gradient filters."""

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.checks import above, odd
from transforms.attacks.surrogates import Transform


def gaussian(size: int, sigma: float) -> Transform:
    """Convolves each channel with a Gaussian, black beyond the border: what averaging the gradients of shifted
    canvases amounts to (Dong et al. 2019, arXiv:1904.02884).

    Args:
        size: side of the kernel, odd, pixels.
        sigma: how many standard deviations the kernel reaches to either side, as in the paper's code; so a larger one
            makes it narrower.

    Raises:
        InputError: a size or sigma out of range.
    """
    odd(kernel_size=size)
    above(0, kernel_sigma=sigma)
    line = torch.exp(-0.5 * torch.linspace(-sigma, sigma, size, dtype=torch.float64) ** 2)
    plane = torch.outer(line, line) / line.sum() ** 2
    kernel = plane.float().expand(3, 1, size, size)

    def convolve(gradient: Tensor) -> Tensor:
        return F.conv2d(gradient, kernel.to(gradient), padding="same", groups=3)

    return convolve

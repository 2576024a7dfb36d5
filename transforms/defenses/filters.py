"""Defences that smooth: a pixel becomes some mean of its neighbours."""

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.data.pixels import WHITE
from transforms.defenses.eight_bit import Picture, picture_by_picture, to_8bit, up_to_white
from transforms.errors import InputError

_TV_STEPS = 200


def blur(canvases: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of standard deviation `sigma` pixels, cut off at 4 sigma, mirrored at the border.

    Raises:
        InputError: sigma is not positive, or so large that the kernel reaches beyond the mirrored canvas.
    """
    side = canvases.shape[-1]
    if not 0 < sigma < (side - 0.5) / 4:
        raise InputError(f"blur: sigma {sigma} is not in (0, {(side - 0.5) / 4})")
    return to_8bit(smooth_blur(canvases.double(), sigma=sigma))


def smooth_blur(canvases: Tensor, *, sigma: float) -> Tensor:
    """`blur` of float canvases, without rounding: linear."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device=canvases.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(canvases.dtype)
    planes = canvases.flatten(0, 1).unsqueeze(1)
    planes = F.conv2d(F.pad(planes, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    planes = F.conv2d(F.pad(planes, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))
    return planes.view(canvases.shape)


def median(canvases: Tensor, *, window: int) -> Tensor:
    """The median of the `window` × `window` pixels around each, colour by colour; border pixels are repeated.

    Feature squeezing (Xu et al. 2018, arXiv:1704.01155), whose windows may be even and mirror the border;
    OpenCV's filter, whose windows are odd.

    Raises:
        InputError: the window is not odd, or outside 3 … S.
    """
    _check_window("median", "window", window, canvases.shape[-1])
    return picture_by_picture(canvases, lambda picture: cv2.medianBlur(picture, window))


def bilateral(canvases: Tensor, *, sigma_color: float, sigma_space: float) -> Tensor:
    """A Gaussian mean of the neighbours of a like colour, so that edges stay sharp (Tomasi & Manduchi 1998).

    OpenCV's filter: neighbours are the pixels within a circle of round(1.5 * sigma_space) pixels, at least 1; colours
    differ by the sum over the three channels; the canvas is mirrored at its border without repeating the border pixel.

    Args:
        sigma_color: standard deviation of the weight by colour, in the unit of [0, 1] pixels, in (0, 1].
        sigma_space: standard deviation of the weight by distance, pixels, > 0, at most S / 2.

    Raises:
        InputError: a parameter out of its range.
    """
    side = canvases.shape[-1]
    up_to_white("bilateral: sigma_color", sigma_color)
    if not 0 < sigma_space <= side / 2:
        raise InputError(f"bilateral: sigma_space {sigma_space} is not in (0, {side / 2}]")
    return picture_by_picture(
        canvases, lambda picture: cv2.bilateralFilter(picture, 0, sigma_color * WHITE, sigma_space)
    )


def nlm(canvases: Tensor, *, search: int, patch: int, strength: float) -> Tensor:
    """Non-local means: a mean of the pixels nearby whose surroundings look alike (Buades et al. 2005).

    As in feature squeezing (Xu et al. 2018, arXiv:1704.01155, where 11-3-4 is search 11, patch 3, strength 4):
    OpenCV's fast variant for colours, which denoises lightness and colour in 8-bit CIELAB, and thereby moves colours by
    a few levels, plain areas included. The canvas is mirrored at its border without repeating the border pixel.

    Args:
        search: side of the square of pixels to average, odd, 3 … S.
        patch: side of the squares that are compared, odd, 3 … S.
        strength: how different they may be, in levels (0–255), > 0.

    Raises:
        InputError: a parameter out of its range.
    """
    _check_window("nlm", "search", search, canvases.shape[-1])
    _check_window("nlm", "patch", patch, canvases.shape[-1])
    if not 0 < strength < np.inf:
        raise InputError(f"nlm: strength {strength} is not positive")

    def denoised(picture: Picture) -> Picture:
        blue_first = np.ascontiguousarray(picture[..., ::-1])
        return cv2.fastNlMeansDenoisingColored(blue_first, None, strength, strength, patch, search)[..., ::-1]

    return picture_by_picture(canvases, denoised)


def tvm(canvases: Tensor, *, weight: float) -> Tensor:
    """Total variation minimisation, colour by colour: the z of least |z - x|² / 2 + weight * TV(z), in [0, 1] pixels.

    TV is isotropic (Rudin, Osher & Fatemi 1992), and minimised by 200 steps of fast gradient projection (Beck &
    Teboulle 2009, IEEE Trans. Image Processing 18): on a photograph the sum is then within 0.2 % of the least one for
    weights up to 0.3, and within 2 % for a weight of 1. Of Guo et al. 2018 (arXiv:1711.00117) this is the denoising
    alone: they drop half of the pixels at random first and let the rest fill the gaps.

    Args:
        weight: in (0, 1]; the larger, the smoother.

    Raises:
        InputError: the weight is out of its range.
    """
    if not 0 < weight <= 1:
        raise InputError(f"tvm: weight {weight} is not in (0, 1]")
    return to_8bit(_of_least_variation(canvases.float() / WHITE, weight) * WHITE)


def _of_least_variation(canvases: Tensor, weight: float) -> Tensor:
    # The dual has a vector of length 1 or less for each pixel, which is the direction of the slope where there is one.
    dual = ahead = torch.zeros(2, *canvases.shape, device=canvases.device)
    momentum = 1.0
    for _ in range(_TV_STEPS):
        moved = ahead + _slope(canvases + weight * _divergence(ahead)) / (8 * weight)  # 8: the largest |divergence|²
        moved = moved / torch.hypot(moved[0], moved[1]).clamp(min=1)
        later = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / later * (moved - dual)
        dual, momentum = moved, later
    return canvases + weight * _divergence(dual)


def _slope(canvases: Tensor) -> Tensor:
    """Differences to the pixels below and to the right, (2, *shape); 0 at the border."""
    down, right = F.pad(canvases.diff(dim=-2), (0, 0, 0, 1)), F.pad(canvases.diff(dim=-1), (0, 1))
    return torch.stack([down, right])


def _divergence(vectors: Tensor) -> Tensor:
    """Minus the transposed `_slope`."""
    down, right = vectors[0, ..., :-1, :], vectors[1, ..., :-1]
    return F.pad(down, (0, 0, 1, 1)).diff(dim=-2) + F.pad(right, (1, 1)).diff(dim=-1)


def _check_window(name: str, parameter: str, window: int, side: int) -> None:
    if window % 2 == 0 or not 3 <= window <= side:  # noqa: PLR2004
        raise InputError(f"{name}: {parameter} {window} is not an odd number in 3–{side}")

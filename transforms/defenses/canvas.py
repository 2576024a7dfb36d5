"""Defences that work on the 8-bit canvas: each maps uint8 (B, 3, S, S) to uint8 of the same shape.

A defence's parameters have no defaults, so that its written name (`lowpass:cutoff=0.7`) says all there is to say.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from transforms.errors import InputError
from transforms.spectrum import lowest_fourier


def lowpass(canvases: Tensor, *, cutoff: float) -> Tensor:
    """Keeps the lowest Fourier frequencies: per axis, those up to `cutoff` (0–1) times the Nyquist frequency.

    The kept band is the square |fx|, |fy| <= cutoff / 2 cycles per pixel, so 1 keeps everything and changes nothing,
    and a share of about cutoff**2 of the frequencies remains.

    Raises:
        InputError: cutoff outside (0, 1].
    """
    if not 0 < cutoff <= 1:
        raise InputError(f"lowpass: cutoff {cutoff} is not in (0, 1]")
    return _to_8bit(smooth_lowpass(canvases.double(), cutoff=cutoff))


def smooth_lowpass(canvases: Tensor, *, cutoff: float) -> Tensor:
    """`lowpass` of float canvases, without rounding and clipping: linear."""
    side = canvases.shape[-1]
    spectrum = torch.fft.rfft2(canvases) * lowest_fourier(side, cutoff, canvases.device)
    passed: Tensor = torch.fft.irfft2(spectrum, s=(side, side))
    return passed


def blur(canvases: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of standard deviation `sigma` pixels, cut off at 4 sigma, mirrored at the border.

    Raises:
        InputError: sigma is not positive, or so large that the kernel reaches beyond the mirrored canvas.
    """
    side = canvases.shape[-1]
    if not 0 < sigma < (side - 0.5) / 4:
        raise InputError(f"blur: sigma {sigma} is not in (0, {(side - 0.5) / 4})")
    return _to_8bit(smooth_blur(canvases.double(), sigma=sigma))


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


def jpeg(canvases: Tensor, *, quality: int) -> Tensor:
    """JPEG compression and decompression by Pillow's codec, 4:2:0 subsampling, `quality` 1–95.

    Raises:
        InputError: quality outside 1–95.
    """
    if not 1 <= quality <= 95:  # noqa: PLR2004 - Pillow's own range
        raise InputError(f"jpeg: quality {quality} is not in 1–95")
    return torch.stack([_through_jpeg(canvas, quality) for canvas in canvases.cpu()]).to(canvases.device)


def _through_jpeg(canvas: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(canvas.permute(1, 2, 0).contiguous().numpy()).save(buffer, "JPEG", quality=quality, subsampling=2)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def _to_8bit(values: Tensor) -> Tensor:
    # Exact halves are common (a canvas's mean, say); the last bit of a sum must not decide how they are rounded.
    return ((values * 2**20).round() / 2**20).round().clamp(0, 255).to(torch.uint8)

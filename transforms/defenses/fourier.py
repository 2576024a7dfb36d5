"""Low-pass defences: canvases without their high frequencies. All are linear but for rounding to 8 bits."""

import torch
from torch import Tensor

from transforms.defenses.eight_bit import to_8bit
from transforms.errors import InputError
from transforms.spectrum import lowest_cosines, lowest_fourier, radii


def lowpass(canvases: Tensor, *, cutoff: float) -> Tensor:
    """Keeps the lowest Fourier frequencies: per axis, those up to `cutoff` (0–1) times the Nyquist frequency.

    The kept band is the square |fx|, |fy| <= cutoff / 2 cycles per pixel, so 1 keeps everything and changes nothing,
    and a share of about cutoff**2 of the frequencies remains.

    Raises:
        InputError: cutoff outside (0, 1].
    """
    _check("lowpass", cutoff)
    return to_8bit(smooth_lowpass(canvases.double(), cutoff=cutoff))


def smooth_lowpass(canvases: Tensor, *, cutoff: float) -> Tensor:
    """`lowpass` of float canvases, without rounding and clipping: linear."""
    return _weighed(canvases, lowest_fourier(canvases.shape[-1], cutoff, canvases.device))


def lowpass_gaussian(canvases: Tensor, *, cutoff: float) -> Tensor:
    """Multiplies Fourier frequencies by exp(-r² / 2c²): no ringing (Gonzalez & Woods, Digital Image Processing, §4.8).

    r is the distance from frequency 0, and c = cutoff / 2 cycles per pixel, where a share of exp(-1/2) = 0.61 is left.
    The picture repeats at its borders, as for all Fourier filters here; `blur` has mirrored borders.

    Raises:
        InputError: cutoff outside (0, 1].
    """
    _check("lowpass-gaussian", cutoff)
    return to_8bit(smooth_lowpass_gaussian(canvases.double(), cutoff=cutoff))


def smooth_lowpass_gaussian(canvases: Tensor, *, cutoff: float) -> Tensor:
    """`lowpass_gaussian` of float canvases, without rounding: linear."""
    distance = radii(canvases.shape[-1], canvases.device) / (cutoff / 2)
    return _weighed(canvases, torch.exp(-0.5 * distance**2).to(canvases.dtype))


def lowpass_butterworth(canvases: Tensor, *, cutoff: float, order: int) -> Tensor:
    """Multiplies Fourier frequencies by 1 / (1 + (r / c)^2n), n the order (Gonzalez & Woods, §4.8).

    r is the distance from frequency 0, and c = cutoff / 2 cycles per pixel, where a half is left. The higher the order
    (>= 1), the sharper the edge of the band, and the more it rings.

    Raises:
        InputError: cutoff outside (0, 1], or an order below 1.
    """
    _check("lowpass-butterworth", cutoff)
    if order < 1:
        raise InputError(f"lowpass-butterworth: order {order} is not at least 1")
    return to_8bit(smooth_lowpass_butterworth(canvases.double(), cutoff=cutoff, order=order))


def smooth_lowpass_butterworth(canvases: Tensor, *, cutoff: float, order: int) -> Tensor:
    """`lowpass_butterworth` of float canvases, without rounding and clipping: linear."""
    distance = radii(canvases.shape[-1], canvases.device) / (cutoff / 2)
    return _weighed(canvases, (1 / (1 + distance ** (2 * order))).to(canvases.dtype))


def lowpass_dct(canvases: Tensor, *, cutoff: float) -> Tensor:
    """Keeps the lowest cosine frequencies (DCT-II of the whole canvas): per axis, the first ceil(cutoff * S) of S.

    Cosines see the canvas mirrored at its borders, not repeated, so opposite borders do not run into each other.
    1 changes nothing. This is the basis of the low-frequency attacks (Guo et al. 2019, arXiv:1809.08758).

    Raises:
        InputError: cutoff outside (0, 1].
    """
    _check("lowpass-dct", cutoff)
    return to_8bit(smooth_lowpass_dct(canvases.double(), cutoff=cutoff))


def smooth_lowpass_dct(canvases: Tensor, *, cutoff: float) -> Tensor:
    """`lowpass_dct` of float canvases, without rounding and clipping: linear."""
    basis = lowest_cosines(canvases.shape[-1], cutoff)
    kept = (basis.T @ basis).to(canvases)
    return kept @ canvases @ kept


def _weighed(canvases: Tensor, weights: Tensor) -> Tensor:
    passed: Tensor = torch.fft.irfft2(torch.fft.rfft2(canvases) * weights, s=canvases.shape[-2:])
    return passed


def _check(name: str, cutoff: float) -> None:
    if not 0 < cutoff <= 1:
        raise InputError(f"{name}: cutoff {cutoff} is not in (0, 1]")

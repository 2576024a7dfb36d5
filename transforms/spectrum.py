"""Frequencies of pictures: which are low, and the cosine transform."""

import math
from functools import cache

import torch
from torch import Tensor


def lowest_fourier(side: int, cutoff: float, device: torch.device) -> Tensor:
    """Which coefficients of `torch.fft.rfft2` of a square picture are low: bool (side, side // 2 + 1).

    Per axis, those up to `cutoff` times the Nyquist frequency: |fx|, |fy| <= cutoff / 2 cycles per pixel.
    """
    # In cycles per picture, which are whole numbers: 0.7 * 180 / 2 is 63, though binary says 62.999…
    highest = int(cutoff * side / 2 + 1e-9)
    index = torch.arange(side, device=device)
    kept = torch.minimum(index, side - index) <= highest
    return kept[:, None] & kept[: side // 2 + 1]


def radii(side: int, device: torch.device) -> Tensor:
    """How far the coefficients of `torch.fft.rfft2` of a square picture are from frequency 0: float64
    (side, side // 2 + 1), cycles per pixel."""
    down = torch.fft.fftfreq(side, dtype=torch.float64, device=device)
    across = torch.fft.rfftfreq(side, dtype=torch.float64, device=device)
    return torch.hypot(down[:, None], across)


def lowest_cosines(side: int, cutoff: float) -> Tensor:
    """The lowest ceil(cutoff * side) rows of `cosines`."""
    return cosines(side)[: math.ceil(cutoff * side - 1e-9)]


@cache
def cosines(side: int) -> Tensor:
    """The orthonormal DCT-II matrix, float64 (side, side), one frequency per row."""
    frequency = torch.arange(side, dtype=torch.float64)
    matrix = torch.cos(math.pi / side * frequency[:, None] * (frequency + 0.5)) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix


def with_spectrum(pictures: Tensor, factors: Tensor) -> Tensor:
    """Pictures (..., S, S) whose cosine coefficients are multiplied by factors of the same shape."""
    basis = cosines(pictures.shape[-1]).to(pictures)
    return basis.T @ (factors * (basis @ pictures @ basis.T)) @ basis

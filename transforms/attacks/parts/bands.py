"""Bands: low-frequency subspaces of pictures, in a Fourier or a cosine basis."""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from transforms.errors import InputError
from transforms.ranges import within
from transforms.spectrum import lowest_cosines, lowest_fourier

Basis = Literal["fourier", "dct"]
_NOTHING = 1e-6
"""Share of a picture's energy; one frequency of a dot has 1/224 of it."""


class Band(Protocol):
    """The lowest frequencies per axis, up to a cutoff in units of the Nyquist frequency."""

    @property
    def cutoff(self) -> float: ...

    def project(self, perturbation: Tensor) -> Tensor:
        """The nearest perturbation (B, 3, S, S) in the band."""

    def signs(self, gradient: Tensor) -> Tensor:
        """The picture (B, 3, S, S) whose coefficients in the band are the signs of the gradient's; of complex
        coefficients, those of the real and the imaginary part."""


def leaked(band: Band, perturbation: Tensor) -> Tensor:
    """The share (B,) of a perturbation's energy that lies outside the band, in [0, 1]; 0 for no perturbation."""
    inside = (band.project(perturbation.double()) ** 2).sum(dim=(1, 2, 3))
    whole = (perturbation.double() ** 2).sum(dim=(1, 2, 3))
    return (1 - inside / whole.clamp(min=torch.finfo(torch.float64).tiny)).clamp(min=0) * (whole > 0)


def check(band: Band, side: int) -> None:
    """Raises InputError if a band keeps every frequency of canvases of `side` pixels."""
    dot = torch.zeros(1, 1, side, side)
    dot[..., side // 2, side // 2] = 1  # all frequencies
    if leaked(band, dot) < _NOTHING:
        raise InputError(f"cutoff: {band.cutoff} keeps every frequency of a canvas of {side} pixels; take less")


@dataclass(frozen=True)
class FourierBand:
    """|fx|, |fy| <= cutoff / 2 cycles per pixel: what the defence `lowpass` of the same cutoff lets pass."""

    cutoff: float

    def __post_init__(self) -> None:
        within("(0, 1)", cutoff=self.cutoff)  # 1 would be no band at all

    def project(self, perturbation: Tensor) -> Tensor:
        return self._picture(torch.fft.rfft2(perturbation), perturbation)

    def signs(self, gradient: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(gradient)
        return self._picture(torch.complex(spectrum.real.sign(), spectrum.imag.sign()), gradient)

    def _picture(self, spectrum: Tensor, like: Tensor) -> Tensor:
        side = like.shape[-1]
        kept = spectrum * lowest_fourier(side, self.cutoff, like.device)
        pictures: Tensor = torch.fft.irfft2(kept, s=(side, side))
        return pictures


@dataclass(frozen=True)
class DctBand:
    """The lowest ceil(cutoff * S) of the S frequencies per axis of the cosine transform (DCT-II)
    (Guo et al. 2019, arXiv:1809.08758; Sharma et al. 2019, arXiv:1903.00073)."""

    cutoff: float

    def __post_init__(self) -> None:
        within("(0, 1)", cutoff=self.cutoff)

    def project(self, perturbation: Tensor) -> Tensor:
        basis = self._basis(perturbation)
        return basis.T @ (basis @ perturbation @ basis.T) @ basis

    def signs(self, gradient: Tensor) -> Tensor:
        basis = self._basis(gradient)
        return basis.T @ (basis @ gradient @ basis.T).sign() @ basis

    def _basis(self, like: Tensor) -> Tensor:
        return lowest_cosines(like.shape[-1], self.cutoff).to(like)


BANDS: dict[str, type[FourierBand] | type[DctBand]] = dict(zip(get_args(Basis), (FourierBand, DctBand), strict=True))

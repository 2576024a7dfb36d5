"""Differentiable JPEG: what `jpeg` does to a picture, with a rounding that has a gradient (Shin & Song 2017).

Richard Shin and Dawn Song, "JPEG-resistant Adversarial Images", NIPS 2017 Workshop on Machine Learning and Computer
Security. As Reich et al. 2024 ("Differentiable JPEG: The Devil is in the Details", arXiv:2309.06978) found to matter,
chroma is subsampled and enlarged as the codec does it, and quantisation tables are the codec's; what a model is shown
is the real codec's output, which their straight-through variant comes to as well.
"""

import io
import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_BLOCK = 8
_MIDDLE = 128


def smooth_jpeg(canvases: Tensor, *, quality: int) -> Tensor:
    """`jpeg` of float canvases in levels (0–255), with coefficients rounded by `polynomially_rounded`: (B, 3, S, S).

    Colours are JFIF's YCbCr. Red and blue differences are averaged over squares of two by two pixels, and enlarged by
    libjpeg's triangle ("fancy upsampling"). Coefficients of blocks of 8 × 8 pixels, the picture continued by its last
    pixels where they do not fit, are divided by the tables that Pillow writes at this quality. Unlike the codec this
    rounds nothing else, and clips nothing.
    """
    return _through(canvases, quality, polynomially_rounded)


def polynomially_rounded(coefficients: Tensor) -> Tensor:
    """⌊x⌉ + (x − ⌊x⌉)³ (Shin & Song 2017, eq. 1): near whole numbers as flat as rounding, steep halfway between."""
    nearest = coefficients.detach().round()
    return nearest + (coefficients - nearest) ** 3


def _through(canvases: Tensor, quality: int, rounded: Callable[[Tensor], Tensor]) -> Tensor:
    """JPEG with any rounding of coefficients."""
    side = canvases.shape[-1]
    luma, *chroma = _YCC.to(canvases).matmul(canvases.flatten(2)).view_as(canvases).unbind(dim=1)
    tables = [each.to(canvases) for each in _tables(quality)]
    decoded = [_coded(luma - _MIDDLE, tables[0], rounded)[:, :side, :side] + _MIDDLE]
    for plane in chroma:
        small = F.avg_pool2d(_continued(plane[:, None], 2 * _BLOCK), 2)[:, 0]
        whole = math.ceil(side / 2)
        decoded.append(_enlarged(_coded(small, tables[1], rounded)[:, :whole, :whole])[:, :side, :side])
    colours: Tensor = _RGB.to(canvases).matmul(torch.stack(decoded, dim=1).flatten(2)).view_as(canvases)
    return colours


def _coded(plane: Tensor, table: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
    """A plane (B, h, w), around 0, with the cosine coefficients of its blocks quantised; continued to whole blocks."""
    plane = _continued(plane[:, None], _BLOCK)[:, 0]
    batch, height, width = plane.shape
    blocks = plane.view(batch, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).transpose(2, 3)
    basis = _cosines().to(plane)
    quantised = rounded(basis @ blocks @ basis.T / table) * table
    return (basis.T @ quantised @ basis).transpose(2, 3).reshape(batch, height, width)


def _continued(planes: Tensor, multiple: int) -> Tensor:
    """Planes (B, 1, h, w) continued by their last row and column to multiples of a number."""
    missing = [-side % multiple for side in planes.shape[:1:-1]]
    return F.pad(planes, (0, missing[0], 0, missing[1]), mode="replicate")


def _enlarged(plane: Tensor) -> Tensor:
    """A plane (B, h, w) to (B, 2h, 2w): each new pixel is 9/16, 3/16, 3/16 and 1/16 of the four old ones nearest."""
    size = (2 * plane.shape[-2], 2 * plane.shape[-1])
    return F.interpolate(plane[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


@cache
def _tables(quality: int) -> tuple[Tensor, Tensor]:
    """The quantisation tables of luma and chroma that Pillow writes, float64 (8, 8)."""
    file = io.BytesIO()
    Image.new("RGB", (_BLOCK, _BLOCK)).save(file, format="JPEG", quality=quality, subsampling=2)
    written = Image.open(file).quantization  # type: ignore[attr-defined]  # of JpegImageFile; rows from top to bottom
    luma, chroma = (torch.tensor(written[each], dtype=torch.float64).view(_BLOCK, _BLOCK) for each in (0, 1))
    return luma, chroma


@cache
def _cosines() -> Tensor:
    """The orthonormal DCT-II of 8 numbers, float64 (8, 8)."""
    number = torch.arange(_BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi / _BLOCK * number[:, None] * (number + 0.5)) * math.sqrt(2 / _BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]], dtype=torch.float64
)
"""JFIF's colours (ITU-T T.871): luma, blue and red differences, the latter around 0."""
_RGB = torch.linalg.inv(_YCC)

"""Defences that store a canvas with less than it takes: JPEG, WebP, fewer bits."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image
from torch import Tensor

from transforms.data.pixels import WHITE
from transforms.defenses.eight_bit import Picture, picture_by_picture, to_8bit
from transforms.errors import InputError


def jpeg(canvases: Tensor, *, quality: int) -> Tensor:
    """JPEG compression and decompression by Pillow's codec, 4:2:0 subsampling, `quality` 1–95.

    As a defence: Dziugaite et al. 2016, arXiv:1608.00853.

    Raises:
        InputError: quality outside 1–95.
    """
    if not 1 <= quality <= 95:  # noqa: PLR2004 - Pillow's own range
        raise InputError(f"jpeg: quality {quality} is not in 1–95")
    return _through_file(canvases, {"format": "JPEG", "quality": quality, "subsampling": 2})


def webp(canvases: Tensor, *, quality: int) -> Tensor:
    """Lossy WebP compression and decompression by Pillow's codec, method 4, `quality` 0–100.

    Raises:
        InputError: quality outside 0–100.
    """
    if not 0 <= quality <= 100:  # noqa: PLR2004 - Pillow's own range
        raise InputError(f"webp: quality {quality} is not in 0–100")
    return _through_file(canvases, {"format": "WEBP", "quality": quality, "method": 4})


def bit_depth(canvases: Tensor, *, bits: int) -> Tensor:
    """Rounds each colour of a pixel to the nearest of 2^bits evenly spaced levels from 0 to 255, `bits` 1–8.

    Feature squeezing (Xu et al. 2018, arXiv:1704.01155). 8 changes nothing.

    Raises:
        InputError: bits outside 1–8.
    """
    if not 1 <= bits <= 8:  # noqa: PLR2004
        raise InputError(f"bit-depth: bits {bits} is not in 1–8")
    step = WHITE / (2**bits - 1)
    return to_8bit((canvases.double() / step).round() * step)


def _through_file(canvases: Tensor, options: Mapping[str, str | int]) -> Tensor:
    def through(picture: Picture) -> Picture:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, **options)  # type: ignore[arg-type]
        return np.array(Image.open(file))

    return picture_by_picture(canvases, through)

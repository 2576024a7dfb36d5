"""Random defences. What is drawn is drawn per image, never for a batch."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.data.pixels import WHITE
from transforms.defenses.eight_bit import Picture, picture_by_picture, to_8bit, up_to_white
from transforms.errors import InputError
from transforms.randomness import Draws


def noise(canvases: Tensor, draws: Draws, *, sigma: float) -> Tensor:
    """Gaussian noise of standard deviation `sigma`, in (0, 1] of a pixel's range; the sum is clipped and rounded.

    Raises:
        InputError: sigma is not in (0, 1].
    """
    up_to_white("noise: sigma", sigma)
    drawn = draws.normal(canvases.shape[1:], "noise").to(canvases.device)
    return to_8bit(canvases + drawn.double() * (sigma * WHITE))


def resize_pad(canvases: Tensor, draws: Draws, *, scale: float) -> Tensor:
    """Enlarged by a random factor, put at a random place on a black square, and resized back (Xie et al. 2018).

    The square's side is T = round(scale * S), the enlarged canvas's is uniform on S … T - 1, and its place is uniform
    (arXiv:1711.01991, where S = 299 and T = 331, scale 1.107). There the model takes the whole square, enlarged to
    nearest neighbours; here canvases are enlarged bilinearly, and the square is resized back to S, antialiased.

    Args:
        scale: side of the black square in units of the canvas's, in (1, 2].

    Raises:
        InputError: the scale is out of its range, or enlarges by less than a pixel.
    """
    side = canvases.shape[-1]
    if not 1 < scale <= 2:  # noqa: PLR2004
        raise InputError(f"resize-pad: scale {scale} is not in (1, 2]")
    if round(scale * side) == side:
        raise InputError(f"resize-pad: scale {scale} enlarges {side} pixels by less than one")
    return to_8bit(smooth_resize_pad(canvases.double(), draws, scale=scale))


def smooth_resize_pad(canvases: Tensor, draws: Draws, *, scale: float) -> Tensor:
    """`resize_pad` of float canvases, without rounding: linear."""
    side = canvases.shape[-1]
    square = round(scale * side)
    back = _resampling(square, side)

    def matrices(chosen: list[float]) -> tuple[Tensor, Tensor]:
        enlarged = _below(chosen[0], square - side) + side
        starts = [_below(each, square - enlarged + 1) for each in chosen[1:]]
        enlarge = _resampling(side, enlarged)
        rows, columns = (back[:, start : start + enlarged] @ enlarge for start in starts)
        return rows, columns

    return _separably(canvases, draws.uniform((3,), "resize-pad"), matrices)


def random_crop(canvases: Tensor, draws: Draws, *, crop: float) -> Tensor:
    """A random square out of the canvas, resized bilinearly to the whole of it (Guo et al. 2018, arXiv:1711.00117).

    Its side is round(crop * S), at a uniformly drawn place; the paper averages 30 crops of 90 pixels out of 224.

    Args:
        crop: side of the square in units of the canvas's, in (0, 1).

    Raises:
        InputError: the crop is out of its range, less than one pixel, or the whole canvas.
    """
    side = canvases.shape[-1]
    if not 0 < crop < 1:
        raise InputError(f"random-crop: crop {crop} is not in (0, 1)")
    if not 0 < round(crop * side) < side:
        raise InputError(f"random-crop: crop {crop} of {side} pixels is {round(crop * side)} pixels")
    return to_8bit(smooth_random_crop(canvases.double(), draws, crop=crop))


def smooth_random_crop(canvases: Tensor, draws: Draws, *, crop: float) -> Tensor:
    """`random_crop` of float canvases, without rounding: linear."""
    side = canvases.shape[-1]
    kept = round(crop * side)
    enlarge = _resampling(kept, side)

    def matrices(chosen: list[float]) -> tuple[Tensor, Tensor]:
        starts = [_below(each, side - kept + 1) for each in chosen]
        rows, columns = (F.pad(enlarge, (start, side - kept - start)) for start in starts)
        return rows, columns

    return _separably(canvases, draws.uniform((2,), "random-crop"), matrices)


def pixel_deflection(canvases: Tensor, draws: Draws, *, deflections: int, window: int, sigma: float) -> Tensor:
    """Random pixels replaced by others nearby, then wavelet denoising (Prakash et al. 2018, arXiv:1801.08926).

    One after the other, `deflections` pixels, uniformly drawn, each become one of those within `window` pixels of them,
    horizontally and vertically, uniformly drawn inside the canvas. Wavelet coefficients of YCbCr are then shrunk softly
    by BayesShrink (Chang et al. 2000; scikit-image). In the paper objects are spared by a class activation map of the
    model, which a defence here does not know: as if the map were 0 everywhere. As in the paper all three colours of a
    pixel move; the authors' code draws for each colour alone.

    Args:
        deflections: pixels to replace, 1 … S²; 200 in the authors' code.
        window: how far away, pixels, 1 … S - 1; 10 in the authors' code.
        sigma: standard deviation of the noise that is removed, in the unit of [0, 1] pixels, > 0; 0.04 in the authors'
            code.

    Raises:
        InputError: a parameter out of its range.
    """
    side = canvases.shape[-1]
    if not 1 <= deflections <= side**2:
        raise InputError(f"pixel-deflection: deflections {deflections} is not in 1–{side**2}, the canvas's pixels")
    if not 1 <= window < side:
        raise InputError(f"pixel-deflection: window {window} is not in 1–{side - 1}")
    up_to_white("pixel-deflection: sigma", sigma)
    chosen = draws.uniform((deflections, 2, 2), "deflections").double().numpy()
    pixels = np.floor(chosen[..., 0] * side).astype(int)
    low, high = (pixels - window).clip(0), (pixels + window).clip(max=side - 1)
    sources = low + np.floor(chosen[..., 1] * (high - low + 1)).astype(int)
    moves = iter(np.concatenate([pixels, sources], axis=2).tolist())
    deflected = picture_by_picture(canvases, lambda picture: _deflected(picture, next(moves)))
    return picture_by_picture(deflected, partial(_without_noise, sigma=sigma))


def _deflected(picture: Picture, moves: list[list[int]]) -> Picture:
    for y, x, from_y, from_x in moves:
        picture[y, x] = picture[from_y, from_x]
    return picture


def _without_noise(picture: Picture, sigma: float) -> Picture:
    from skimage.restoration import denoise_wavelet  # noqa: PLC0415 - imports scipy.stats, which takes two seconds

    clean = denoise_wavelet(
        picture / WHITE, sigma=sigma, mode="soft", convert2ycbcr=True, method="BayesShrink", channel_axis=-1
    )
    return to_8bit(torch.from_numpy(clean) * WHITE).numpy()


def _below(chosen: float, count: int) -> int:
    """A number uniform on [0, 1) as one of 0 … count - 1."""
    return int(chosen * count)


def _resampling(side: int, wanted: int) -> Tensor:
    """The matrix that resizes a column of pixels bilinearly, antialiased: float64 (wanted, side)."""
    unit = torch.eye(side, dtype=torch.float64)[None, None]
    return F.interpolate(unit, size=(wanted, side), mode="bilinear", antialias=True, align_corners=False)[0, 0]


def _separably(canvases: Tensor, chosen: Tensor, matrices: Callable[[list[float]], tuple[Tensor, Tensor]]) -> Tensor:
    """Multiplies each canvas by matrices for its rows and its columns, which follow from what was drawn for it."""
    changed = []
    for canvas, numbers in zip(canvases, chosen.tolist(), strict=True):
        rows, columns = (each.to(canvas) for each in matrices(numbers))
        changed.append(rows @ canvas @ columns.T)
    return torch.stack(changed) if changed else canvases

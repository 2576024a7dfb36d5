"""Random defences: distributions, hand-made cases, PyTorch's own resizing and PyWavelets as oracles."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.restoration import denoise_wavelet
from torch import Tensor

from tests.support.defenses import draws_for, pictures, same_but_for_ties, waves
from transforms.defenses.randomized import noise, pixel_deflection, random_crop, resize_pad
from transforms.randomness import Draws


class Chosen(Draws):
    """Uniform draws that somebody chose, for one image."""

    def __init__(self, numbers: Sequence[float]) -> None:
        super().__init__(0, "chosen", ["image"])
        self.numbers = numbers

    def uniform(self, shape: Sequence[int], draw: str) -> Tensor:
        return torch.tensor(self.numbers, dtype=torch.float32).view(1, *shape)


def resized(canvas: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(canvas.double(), size=size, mode="bilinear", antialias=True, align_corners=False)


# Noise ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_is_normal(sigma: float) -> None:
    canvas = torch.full((2, 3, 96, 96), 128, dtype=torch.uint8)
    added = (noise(canvas, draws_for(2), sigma=sigma).double() - 128).flatten()
    spread = math.sqrt((255 * sigma) ** 2 + 1 / 12)  # rounding adds a twelfth
    count = len(added)
    assert abs(added.mean()) < 4 * spread / math.sqrt(count)
    assert abs(added.std() / spread - 1) < 4 / math.sqrt(2 * count)
    levels = np.arange(128 - 20, 128 + 21)
    expected = np.diff(stats.norm.cdf((np.append(levels, 129 + 20) - 128.5) / (255 * sigma)))
    found = [torch.eq(added, int(level) - 128).double().mean() for level in levels]
    assert np.abs(np.array(found) - expected).max() < 4 * np.sqrt(expected.max() / count)


def test_noise_is_drawn_anew_for_every_pixel_and_colour() -> None:
    added = noise(torch.full((2, 3, 64, 64), 128, dtype=torch.uint8), draws_for(2), sigma=0.1).double() - 128
    planes = added.flatten(0, 1).flatten(1)
    off_diagonal = torch.corrcoef(planes) - torch.eye(6)
    assert off_diagonal.abs().max() < 4 / 64
    assert torch.corrcoef(torch.stack([added[..., :-1].flatten(), added[..., 1:].flatten()]))[0, 1].abs() < 0.03


def test_noise_is_clipped_not_wrapped() -> None:
    black, white = torch.zeros(1, 3, 32, 32).byte(), torch.full((1, 3, 32, 32), 255).byte()
    assert (noise(black, draws_for(1), sigma=0.1) == 0).double().mean() > 0.45
    assert (noise(white, draws_for(1), sigma=0.1) == 255).double().mean() > 0.45
    assert noise(black, draws_for(1), sigma=0.1).max() < 160


# Resizing and padding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(0.0, 0.0, 0.0), (0.5, 0.3, 0.8), (0.99, 0.99, 0.0), (0.2, 0.999, 0.999)])
@pytest.mark.parametrize("side", [30, 41])
def test_resize_pad_by_hand(numbers: tuple[float, float, float], side: int) -> None:
    """Enlarged to 40 … 49 of 50 pixels for a side of 40, padded with black, and back again."""
    canvas = pictures(side, count=1)
    square = round(1.25 * side)
    inner = side + int(numbers[0] * (square - side))
    top, left = (int(each * (square - inner + 1)) for each in numbers[1:])
    padded = torch.zeros(1, 3, square, square, dtype=torch.float64)
    padded[..., top : top + inner, left : left + inner] = resized(canvas, (inner, inner))
    exact = resized(padded, (side, side))
    same_but_for_ties(resize_pad(canvas, Chosen(numbers), scale=1.25), exact.numpy())


def test_resize_pad_reaches_every_size_and_place() -> None:
    """A white canvas of 20 pixels on a black square of 24: 20 … 23 pixels, at 5 … 2 places along either axis."""
    white = torch.full((1500, 3, 20, 20), 255, dtype=torch.uint8)
    drawn = draws_for(1500)
    boxes = [white_part(canvas) for canvas in resize_pad(white, drawn, scale=1.2)]
    expected = []
    for size, top, left in drawn.uniform((3,), "resize-pad").tolist():
        inner = 20 + int(4 * size)
        expected.append(tuple((int(each * (25 - inner)) * 20 / 24, inner * 20 / 24) for each in (top, left)))
    assert np.allclose(boxes, expected, atol=0.1)
    assert len({round(size * 24 / 20) for _, (_, size) in boxes}) == 4
    assert len(set(expected)) == 25 + 16 + 9 + 4


def white_part(canvas: Tensor) -> tuple[tuple[float, float], ...]:
    """Where it starts and how long it is, along both axes, in pixels."""
    found = []
    for profile in (canvas[0].double().amax(dim=1), canvas[0].double().amax(dim=0)):
        share = profile / 255
        length = float(share.sum())
        before = float((1 - share[: int((share > 0.5).nonzero()[0]) + 1]).sum())
        found.append((before, length))
    return tuple(found)


# Random crops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(0.0, 0.0), (0.4, 0.7), (0.999, 0.999)])
@pytest.mark.parametrize("side", [30, 41])
def test_random_crop_by_hand(numbers: tuple[float, float], side: int) -> None:
    canvas = pictures(side, count=1)
    kept = round(0.4 * side)
    top, left = (int(each * (side - kept + 1)) for each in numbers)
    exact = resized(canvas[..., top : top + kept, left : left + kept], (side, side))
    same_but_for_ties(random_crop(canvas, Chosen(numbers), crop=0.4), exact.numpy())


def test_random_crops_come_from_every_place_alike() -> None:
    """Of a ramp with a step of 10 per pixel the first pixel of the crop is read off."""
    ramp = (10 * torch.arange(20)).byte().view(1, 1, 1, 20).expand(600, 3, 20, 20)
    starts = random_crop(ramp, draws_for(600), crop=0.75)[:, 0, 0, 0] // 10  # 15 pixels at one of 6 places
    assert stats.chisquare(np.bincount(starts, minlength=6)).pvalue > 1e-4 and starts.max() == 5
    down = random_crop(ramp.transpose(2, 3), draws_for(600), crop=0.75)[:, 0, 0, 0] // 10
    assert stats.chisquare(np.bincount(down, minlength=6)).pvalue > 1e-4
    assert abs(np.corrcoef(starts, down)[0, 1]) < 4 / math.sqrt(600)


# Pixel deflection ----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 1023).map(lambda n: n / 1024)] * 4), min_size=1, max_size=30),
    st.integers(1, 11),
)
def test_pixels_are_deflected_one_after_the_other(numbers: list[tuple[float, ...]], window: int) -> None:
    """Then denoised as the authors do; a hand-made loop over the same numbers."""
    side, canvas = 12, pictures(12, count=1)
    flat = [number for y, from_y, x, from_x in numbers for number in (y, from_y, x, from_x)]
    picture = canvas[0].permute(1, 2, 0).numpy().copy()
    for y_drawn, from_y_drawn, x_drawn, from_x_drawn in numbers:
        place = []
        for drawn, from_drawn in ((y_drawn, from_y_drawn), (x_drawn, from_x_drawn)):
            at = int(drawn * side)
            candidates = [each for each in range(side) if abs(each - at) <= window]
            place.append((at, candidates[int(from_drawn * len(candidates))]))
        (y, from_y), (x, from_x) = place
        picture[y, x] = picture[from_y, from_x]
    clean = denoise_wavelet(
        picture / 255, sigma=0.04, mode="soft", convert2ycbcr=True, method="BayesShrink", channel_axis=-1
    )
    found = pixel_deflection(canvas, Chosen(flat), deflections=len(numbers), window=window, sigma=0.04)
    same_but_for_ties(found, (clean * 255).transpose(2, 0, 1)[None])


def test_deflected_pixels_come_from_nearby() -> None:
    """One pixel of each canvas, with next to no denoising; red tells its column, and green its row."""
    column = (6 * torch.arange(40)).byte().expand(40, 40)
    canvas = torch.stack([column, column.T, torch.zeros_like(column)])
    deflected = pixel_deflection(canvas.expand(600, 3, 40, 40), draws_for(600), deflections=1, window=2, sigma=1e-5)
    moved = (deflected.int() - canvas.int()) / 6
    image, y, x = (moved.abs().amax(dim=1) > 0.5).nonzero(as_tuple=True)
    assert len(image.unique()) == len(image)
    assert len(image) / 600 == pytest.approx(24 / 25, abs=0.04)  # one in 25 meets itself
    for places in (y, x):
        assert stats.chisquare(np.bincount(places // 8, minlength=5)).pvalue > 1e-4
    inside = (y > 1) & (y < 38) & (x > 1) & (x < 38)
    offsets = moved[image, :2, y, x][inside].round().int() + 2
    counts = np.bincount(offsets[:, 0] * 5 + offsets[:, 1], minlength=25)
    assert counts[12] == 0 and stats.chisquare(np.delete(counts, 12)).pvalue > 1e-4


def test_all_colours_of_a_pixel_are_deflected_together() -> None:
    grey = waves(32, count=1)[:, :1].expand(1, 3, 32, 32)
    deflected = pixel_deflection(grey, draws_for(1), deflections=300, window=8, sigma=0.01)
    assert not torch.equal(deflected, grey)
    assert (deflected.amax(dim=1).int() - deflected.amin(dim=1).int()).max() <= 1

"""Differentiable JPEG: against loops over blocks, finite differences, the standard's tables, and Pillow's codec."""

import io

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from torch import Tensor

from tests.support.defenses import pictures, waves
from transforms.defenses.codecs import jpeg
from transforms.defenses.differentiable import differentiable
from transforms.defenses.differentiable_jpeg import polynomially_rounded, smooth_jpeg
from transforms.defenses.grid import parse

FIRST_ROWS = [[16, 11, 10, 16, 24, 40, 51, 61], [17, 18, 24, 47, 99, 99, 99, 99]]
"""Of the tables of ITU-T T.81, annex K.1."""


def tables(quality: int) -> list[np.ndarray]:
    """As libjpeg scales those of the standard, read from a file that Pillow writes."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, format="JPEG", quality=quality)
    written = Image.open(file).quantization  # type: ignore[attr-defined]
    return [np.array(written[number], float).reshape(8, 8) for number in (0, 1)]


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
def test_the_tables_are_the_standards_scaled_as_libjpeg_does(quality: int) -> None:
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    for found, standard in zip(tables(quality), FIRST_ROWS, strict=True):
        assert found[0].tolist() == [min(max((each * scale + 50) // 100, 1), 255) for each in standard]


def coded(plane: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Block by block, continued by the last row and column."""
    height, width = plane.shape
    padded = np.pad(plane, ((0, -height % 8), (0, -width % 8)), mode="edge")
    for top in range(0, len(padded), 8):
        for left in range(0, padded.shape[1], 8):
            block = scipy.fft.dctn(padded[top : top + 8, left : left + 8], norm="ortho") / table
            whole = np.rint(block)
            quantised = (whole + (block - whole) ** 3) * table
            padded[top : top + 8, left : left + 8] = scipy.fft.idctn(quantised, norm="ortho")
    return padded


def by_hand(picture: np.ndarray, quality: int) -> np.ndarray:
    """A picture (3, S, S) in levels, by the formulas of JFIF and loops over pixels."""
    red, green, blue = picture
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    differences = [(blue - luma) / 1.772, (red - luma) / 1.402]
    luma_table, chroma_table = tables(quality)
    side, half = len(red), -(-len(red) // 2)
    luma = coded(luma - 128, luma_table)[:side, :side] + 128
    planes = []
    for plane in differences:
        even = np.pad(plane, (0, side % 2), mode="edge")
        small = np.array(
            [[even[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() for x in range(half)] for y in range(half)]
        )
        small = coded(small, chroma_table)[:half, :half]
        large = np.empty((side, side))
        for y in range(side):
            for x in range(side):
                near = (y // 2, x // 2)
                far = [min(max(n + (1 if i % 2 else -1), 0), half - 1) for n, i in zip(near, (y, x), strict=True)]
                column = [0.75 * small[row, near[1]] + 0.25 * small[row, far[1]] for row in (near[0], far[0])]
                large[y, x] = 0.75 * column[0] + 0.25 * column[1]
        planes.append(large)
    blue_difference, red_difference = planes
    green = luma - 0.344136286 * blue_difference - 0.714136286 * red_difference
    return np.stack([luma + 1.402 * red_difference, green, luma + 1.772 * blue_difference])


@pytest.mark.parametrize("quality", [10, 75])
@pytest.mark.parametrize("side", [16, 21])
def test_it_is_what_a_loop_over_blocks_says(side: int, quality: int) -> None:
    for picture in (pictures(side, count=1)[0], waves(side)[0]):
        found = smooth_jpeg(picture[None].double(), quality=quality)[0]
        # The six digits of JFIF's inverse are what separates the two.
        assert np.allclose(found.numpy(), by_hand(picture.double().numpy(), quality), atol=1e-4)


def test_rounding_is_flat_at_whole_numbers_and_steep_between() -> None:
    numbers = torch.tensor([-1.5, -0.25, 0.0, 0.4, 0.5, 2.9], dtype=torch.float64, requires_grad=True)
    rounded = polynomially_rounded(numbers)
    assert torch.allclose(rounded, torch.tensor([-1.875, -(0.25**3), 0, 0.4**3, 0.125, 3 - 0.1**3]).double())
    (slope,) = torch.autograd.grad(rounded.sum(), numbers)
    assert torch.allclose(slope, torch.tensor([0.75, 3 / 16, 0, 0.48, 0.75, 0.03]).double())


@pytest.mark.parametrize("quality", [30, 75])
def test_gradients_are_finite_differences(quality: int) -> None:
    """Between the jumps of rounding, along random directions. The step is so small that no coefficient jumps."""
    generator = torch.Generator().manual_seed(quality)
    canvas = waves(21, count=1).double() + torch.rand(1, 3, 21, 21, generator=generator, dtype=torch.float64)
    pulled = torch.randn(canvas.shape, generator=generator, dtype=torch.float64)

    def value(at: Tensor) -> Tensor:
        return (pulled * smooth_jpeg(at, quality=quality)).sum()

    leaf = canvas.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    for _ in range(10):
        direction, step = torch.randn(canvas.shape, generator=generator, dtype=torch.float64), 1e-6
        slope = (value(canvas + step * direction) - value(canvas - step * direction)) / (2 * step)
        assert (gradient * direction).sum() == pytest.approx(float(slope), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 40, 90), (12, 130, 250)])
def test_a_flat_picture_is_what_pillow_makes_of_it(colour: tuple[int, int, int]) -> None:
    """One coefficient for each plane; the codec rounds colours besides, to a level and a half at most."""
    flat = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 24, 24).contiguous()
    found = smooth_jpeg(flat.double(), quality=95)
    assert (found - jpeg(flat, quality=95)).abs().max() <= 2.5


@pytest.mark.parametrize("quality", [50, 75])
def test_it_comes_near_to_pillows_codec(quality: int) -> None:
    """Nearer by far than the picture itself, which stands in for it under BPDA."""
    smooth = waves(64)
    for canvases, share in ((smooth, 0.5), (pictures(64), 0.6)):
        real = jpeg(canvases, quality=quality).double()
        apart = (smooth_jpeg(canvases.double(), quality=quality).clamp(0, 255) - real).abs().mean()
        assert apart < share * (canvases - real).abs().mean()


def test_attacks_see_the_codec_and_follow_what_stands_in_for_it() -> None:
    defense, canvases = parse("jpeg:quality=75"), waves(24).double() / 255
    pulled = torch.randn(canvases.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for backward in ("identity", "smooth"):
        leaf = canvases.clone().requires_grad_()
        shown = differentiable(defense, backward=backward)(leaf)
        assert torch.equal(shown.detach(), defense(waves(24)).double() / 255)
        (found[backward],) = torch.autograd.grad((pulled * shown).sum(), leaf)
    leaf = (canvases * 255).requires_grad_()
    (expected,) = torch.autograd.grad((pulled * smooth_jpeg(leaf, quality=75)).sum(), leaf)
    assert torch.equal(found["identity"], pulled)
    assert torch.allclose(found["smooth"], expected, atol=1e-9) and not torch.allclose(expected, pulled, atol=0.1)

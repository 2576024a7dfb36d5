"""JPEG, WebP and fewer bits, against Pillow and arithmetic."""

import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.defenses import pictures
from transforms.defenses.codecs import bit_depth, jpeg, webp


@pytest.mark.parametrize("quality", [1, 50, 75, 95])
@pytest.mark.parametrize("side", [16, 21])
def test_jpeg_is_pillows(quality: int, side: int) -> None:
    for canvas, found in zip(pictures(side), jpeg(pictures(side), quality=quality), strict=True):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(canvas.numpy().transpose(1, 2, 0))).save(
            file, format="jpeg", quality=quality, subsampling="4:2:0"
        )
        expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(found.numpy(), expected)


def test_jpeg_keeps_colours_apart() -> None:
    canvas = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    canvas[0, 0] = 200
    canvas[0, 2] = 60
    assert (jpeg(canvas, quality=95).int() - canvas.int()).abs().max() <= 3


@pytest.mark.parametrize("quality", [0, 50, 75, 100])
@pytest.mark.parametrize("side", [16, 21])
def test_webp_is_pillows(quality: int, side: int) -> None:
    for canvas, found in zip(pictures(side), webp(pictures(side), quality=quality), strict=True):
        file = io.BytesIO()
        picture = np.ascontiguousarray(canvas.numpy().transpose(1, 2, 0))
        Image.fromarray(picture).save(file, format="webp", quality=quality, lossless=False)
        expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(found.numpy(), expected)
        assert not np.array_equal(found.numpy(), canvas.numpy())


@pytest.mark.parametrize("bits", range(1, 9))
def test_fewer_bits_in_exact_arithmetic(bits: int) -> None:
    """Of all levels, the nearest of 2^bits evenly spaced ones from black to white, which is rounded to a level."""
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    steps = [Fraction(255 * number, 2**bits - 1) for number in range(2**bits)]
    nearest = [min(steps, key=lambda step: abs(step - level)) for level in range(256)]
    expected = torch.tensor([round(step) for step in nearest]).view(16, 16)
    found = bit_depth(every, bits=bits)
    assert torch.equal(found.int(), expected.int().expand(1, 3, 16, 16))
    assert len(found.unique()) == 2**bits
    assert torch.equal(bit_depth(found, bits=bits), found)


def test_one_bit_is_black_and_white() -> None:
    canvas = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert bit_depth(canvas, bits=1)[0, 0].flatten().tolist() == [0, 0, 255, 255]


def test_eight_bits_change_nothing() -> None:
    assert torch.equal(bit_depth(pictures(16), bits=8), pictures(16))

"""Distances between canvases, against cases that can be counted by hand and another library's PSNR."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from transforms.rows.distances import distances


def test_counted_by_hand() -> None:
    clean = np.full((3, 16, 16), 100, np.uint8)
    changed = clean.copy()
    changed[0, 2, 3] = 103  # one pixel in one channel …
    changed[:, 5, 5] = (96, 100, 104)  # … and one in two
    found = distances(clean, changed)
    assert found["linf"] == 4 / 255
    assert found["l2"] == pytest.approx(math.sqrt(9 + 16 + 16) / 255)
    assert found["l1"] == pytest.approx((3 + 4 + 4) / 255)
    assert found["l0"] == 2
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(clean, changed, data_range=255))
    assert found["ssim"] < 1


def test_equal_canvases() -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    assert distances(canvas, canvas.copy()) == {"linf": 0, "l2": 0, "l1": 0, "l0": 0, "psnr": math.inf, "ssim": 1}


def test_black_and_white_do_not_wrap_around() -> None:
    black, white = np.zeros((3, 16, 16), np.uint8), np.full((3, 16, 16), 255, np.uint8)
    for found in (distances(black, white), distances(white, black)):
        assert (found["linf"], found["l0"], found["psnr"]) == (1, 256, 0)
        assert found["l2"] == pytest.approx(math.sqrt(3 * 256))

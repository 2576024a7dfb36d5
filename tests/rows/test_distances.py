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


def wang_2004(one: np.ndarray, other: np.ndarray) -> float:
    """SSIM of one channel as the paper's section III-C defines it: the mean over all windows that are inside, weighted
    by a Gaussian of 11 x 11 with a deviation of 1.5 and a sum of 1; K1 = 0.01, K2 = 0.03, L = 255."""
    offsets = np.arange(-5, 6)
    gaussian = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights = gaussian / gaussian.sum()
    x, y = (np.lib.stride_tricks.sliding_window_view(each.astype(float), (11, 11)) for each in (one, other))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.einsum("ijkl,kl->ij", values, weights)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x**2) - mean_x**2, mean(y**2) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * structure).mean())


@pytest.mark.parametrize("change", [4, 16, 255])
def test_ssim_is_that_of_wang_2004(change: int) -> None:
    rng = np.random.default_rng(change)
    clean = rng.integers(0, 256, (3, 4, 5)).repeat(6, axis=1).repeat(5, axis=2)[..., :24, :24].astype(np.uint8)
    noise = rng.integers(-change, change + 1, clean.shape)
    adversarial = (clean + noise).clip(0, 255).astype(np.uint8)
    expected = np.mean([wang_2004(one, other) for one, other in zip(clean, adversarial, strict=True)])
    assert distances(clean, adversarial)["ssim"] == pytest.approx(expected, abs=1e-9)


def test_equal_canvases() -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    assert distances(canvas, canvas.copy()) == {"linf": 0, "l2": 0, "l1": 0, "l0": 0, "psnr": math.inf, "ssim": 1}


def test_black_and_white_do_not_wrap_around() -> None:
    black, white = np.zeros((3, 16, 16), np.uint8), np.full((3, 16, 16), 255, np.uint8)
    for found in (distances(black, white), distances(white, black)):
        assert (found["linf"], found["l0"], found["psnr"]) == (1, 256, 0)
        assert found["l2"] == pytest.approx(math.sqrt(3 * 256))

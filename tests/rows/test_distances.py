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


Lab = tuple[float, float, float]


def sharma_2005(one: Lab, other: Lab) -> float:
    """CIEDE2000 by the steps of Sharma, Wu and Dalal 2005, section 2, with all weights 1."""
    chroma = (math.hypot(*one[1:]) + math.hypot(*other[1:])) / 2
    g = 0.5 * (1 - math.sqrt(chroma**7 / (chroma**7 + 25**7)))
    (l1, a1, b1), (l2, a2, b2) = ((each[0], (1 + g) * each[1], each[2]) for each in (one, other))
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, a)) % 360 if a or b else 0.0 for a, b in ((a1, b1), (a2, b2)))
    turn = 0.0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    hue = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn / 2))
    lightness, c = (l1 + l2) / 2, (c1 + c2) / 2
    h = h1 + h2 if c1 * c2 == 0 else (h1 + h2) / 2
    if c1 * c2 and abs(h1 - h2) > 180:
        h += 180 if h1 + h2 < 360 else -180
    t = 1 - 0.17 * math.cos(math.radians(h - 30)) + 0.24 * math.cos(math.radians(2 * h))
    t += 0.32 * math.cos(math.radians(3 * h + 6)) - 0.20 * math.cos(math.radians(4 * h - 63))
    s_l = 1 + 0.015 * (lightness - 50) ** 2 / math.sqrt(20 + (lightness - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c, 1 + 0.015 * c * t
    turned = -2 * math.sqrt(c**7 / (c**7 + 25**7)) * math.sin(math.radians(60 * math.exp(-(((h - 275) / 25) ** 2))))
    dl, dc, dh = (l2 - l1) / s_l, (c2 - c1) / s_c, hue / s_h
    return math.sqrt(dl**2 + dc**2 + dh**2 + turned * dc * dh)


def lab(colour: np.ndarray) -> Lab:
    """sRGB (IEC 61966-2-1) to CIELAB under D65, by the standards' formulas."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour / 255]
    matrix = [(0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227)]
    white = (0.95047, 1.0, 1.08883)
    parts = [sum(m * c for m, c in zip(row, linear, strict=True)) / w for row, w in zip(matrix, white, strict=True)]
    x, y, z = (p ** (1 / 3) if p > 216 / 24389 else (24389 / 27 * p + 16) / 116 for p in parts)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_colour_difference_is_that_of_sharma_2005() -> None:
    """Three pairs of their table 1 hold the formula; a mean over pixels written out holds the column."""
    for one, other, expected in (
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
        ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ):
        assert sharma_2005(one, other) == pytest.approx(expected, abs=1e-4)
    rng = np.random.default_rng(7)
    clean = rng.integers(0, 256, (3, 12, 12), dtype=np.uint8)
    adversarial = np.clip(clean + rng.integers(-16, 17, clean.shape), 0, 255).astype(np.uint8)
    pairs = zip(clean.reshape(3, -1).T, adversarial.reshape(3, -1).T, strict=True)
    written_out = np.mean([sharma_2005(lab(one), lab(other)) for one, other in pairs])
    assert distances(clean, adversarial)["ciede2000"] == pytest.approx(written_out, abs=1e-3)


def test_equal_canvases() -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    assert distances(canvas, canvas.copy()) == {
        "linf": 0,
        "l2": 0,
        "l1": 0,
        "l0": 0,
        "psnr": math.inf,
        "ssim": 1,
        "ciede2000": 0,
    }


def test_black_and_white_do_not_wrap_around() -> None:
    black, white = np.zeros((3, 16, 16), np.uint8), np.full((3, 16, 16), 255, np.uint8)
    for found in (distances(black, white), distances(white, black)):
        assert (found["linf"], found["l0"], found["psnr"]) == (1, 256, 0)
        assert found["l2"] == pytest.approx(math.sqrt(3 * 256))

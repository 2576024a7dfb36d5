"""How far an adversarial canvas is from the clean one."""

import math

import numpy as np
import numpy.typing as npt
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

from transforms.data.pixels import WHITE

LEAST_SIDE = 11
"""Pixels: the window of SSIM."""


def distances(clean: npt.NDArray[np.uint8], adversarial: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Compares two canvases, uint8 (3, S, S), S >= `LEAST_SIDE`.

    Returns:
        linf, l2, l1: norms of the change, in the unit of [0, 1] pixels.
        l0: pixels changed, of S * S.
        psnr: in dB, infinite for equal canvases.
        ssim: structural similarity with the window of Wang et al. 2004 (Gaussian, sigma 1.5), at most 1.
        ciede2000: colour difference (Sharma et al. 2005), sRGB under D65, the mean over all pixels; from 0, and about 1
            for a difference that is just seen between large patches side by side. In single precision.
    """
    difference = adversarial.astype(np.int64) - clean
    squares = int((difference**2).sum())
    similarity = structural_similarity(
        clean, adversarial, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return {
        "linf": int(np.abs(difference).max()) / WHITE,
        "l2": math.sqrt(squares) / WHITE,
        "l1": int(np.abs(difference).sum()) / WHITE,
        "l0": int((difference != 0).any(axis=0).sum()),
        "psnr": 10 * math.log10(WHITE**2 * difference.size / squares) if squares else math.inf,
        "ssim": float(similarity),
        "ciede2000": float(deltaE_ciede2000(_lab(clean), _lab(adversarial)).mean(dtype=np.float64)),
    }


def _lab(canvas: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """CIELAB, float32 (S, S, 3): in double precision it would take twice the time."""
    lab: npt.NDArray[np.float32] = rgb2lab(canvas.transpose(1, 2, 0).astype(np.float32) / WHITE)
    return lab

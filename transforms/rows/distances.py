"""How far an adversarial canvas is from the clean one."""

import math

import numpy as np
import numpy.typing as npt
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
    }

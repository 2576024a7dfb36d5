"""Pictures and draws for the tests of defences."""

import numpy as np
import torch
from torch import Tensor

from transforms.randomness import Draws


def pictures(side: int, count: int = 2, seed: int = 0) -> Tensor:
    """White noise, uint8 (count, 3, side, side)."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def waves(side: int, count: int = 2) -> Tensor:
    """Smooth pictures, uint8 (count, 3, side, side), no two planes of which are alike."""
    y, x = np.mgrid[:side, :side] / side
    planes = [128 + 90 * np.sin(2 * np.pi * (n % 3 + 1) * x + n) * np.cos(4 * y + n) for n in range(3 * count)]
    return torch.from_numpy(np.rint(planes).astype(np.uint8)).view(count, 3, side, side)


def draws_for(count: int, seed: int = 0) -> Draws:
    return Draws(seed, "defense", [f"image {number}" for number in range(count)])


def same_but_for_ties(found: Tensor, exact: np.ndarray) -> None:
    """`found` is `exact`, rounded to 8 bits; where that is half a level, either neighbour will do."""
    assert found.dtype == torch.uint8 and found.shape == exact.shape
    clipped = np.clip(exact, 0, 255)
    assert abs(found.numpy() - clipped).max() <= 0.5 + 1e-5
    clear = abs(clipped - np.floor(clipped) - 0.5) > 1e-5
    assert np.array_equal(found.numpy()[clear], np.rint(clipped)[clear])

"""Pixels: 8-bit canvases, alone and several at once. As floats they are in [0, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

WHITE = 255
"""The highest grey level."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CanvasBatch:
    """Canvases of several images.

    Attributes:
        image_ids: N ids.
        labels: N classes, 0–999.
        pixels: uint8 (N, 3, S, S), C-contiguous; N may be 0.
        targets: N classes, 0–999, that a targeted attack wants of them; None for any other canvases.
    """

    image_ids: tuple[str, ...]
    labels: tuple[int, ...]
    pixels: Pixels
    targets: tuple[int, ...] | None = None

    @staticmethod
    def joined(batches: Sequence["CanvasBatch"]) -> "CanvasBatch":
        """The images of several batches, at least one, of one size, without targets."""
        return CanvasBatch(
            tuple(chain.from_iterable(each.image_ids for each in batches)),
            tuple(chain.from_iterable(each.labels for each in batches)),
            np.concatenate([each.pixels for each in batches]),
        )

    def take(self, numbers: Sequence[int]) -> "CanvasBatch":
        """Some of the images, by number."""
        ids = tuple(self.image_ids[number] for number in numbers)
        labels = tuple(self.labels[number] for number in numbers)
        targets = None if self.targets is None else tuple(self.targets[number] for number in numbers)
        return CanvasBatch(ids, labels, self.pixels[list(numbers)], targets)

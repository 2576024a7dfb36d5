"""Pictures: read, decoded and resized, against Pillow with torchvision's geometry."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms.functional import InterpolationMode

from benchmarks.measuring import Measured, interleaved
from benchmarks.pictures import CANVAS, listed
from transforms.storage.images import read_batch

_LEAST = 100
"""Pictures in a round."""


def measure(folder: str | None) -> Iterator[Measured]:
    """From files to canvases of 224 x 224."""
    refs = listed(folder)
    refs = [refs[number % len(refs)] for number in range(max(_LEAST, len(refs)))]
    geometry = Compose([Resize(CANVAS.resize, InterpolationMode.BICUBIC), CenterCrop(CANVAS.crop)])

    def with_pillow() -> object:
        opened = (Image.open(Path(ref.uri)).convert("RGB") for ref in refs)
        return np.stack([np.asarray(geometry(picture)).transpose(2, 0, 1) for picture in opened])

    def ours() -> object:
        return read_batch(refs, CANVAS).pixels

    expected = with_pillow()

    def differs(found: object) -> str:
        apart = np.abs(np.asarray(found, dtype=np.int16) - np.asarray(expected, dtype=np.int16))
        return f"pixels within {apart.max()}"

    contenders = {"Pillow": with_pillow, "ours": ours}
    yield from interleaved("read, decode, resize", contenders, rounds=5, images=len(refs), notes=differs)

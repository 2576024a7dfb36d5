"""Canvases as they are stored: one lossless PNG per image, so that any viewer opens what a model was shown."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from transforms.data.pixels import Pixels
from transforms.rows.tables import rows_table


def canvas_sha256(canvas: Pixels) -> str:
    """SHA-256, hexadecimal, of a canvas's bytes in CHW order: independent of how it is compressed."""
    return hashlib.sha256(canvas.tobytes()).hexdigest()


def canvas_table(image_ids: Sequence[str], canvases: Sequence[Pixels]) -> pa.Table:
    """Rows of the `canvases` table for uint8 (3, S, S) canvases."""
    rows = [
        {"image_id": image_id, "canvas": _to_png(canvas), "canvas_sha256": canvas_sha256(canvas)}
        for image_id, canvas in zip(image_ids, canvases, strict=True)
    ]
    return rows_table("canvases", rows)


def _to_png(canvas: Pixels) -> bytes:
    buffer = io.BytesIO()
    # Perturbed pixels hardly compress: the fastest level costs 6 % in size (of clean ones, 3 %).
    Image.fromarray(canvas.transpose(1, 2, 0)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def from_png(png: bytes) -> Pixels:
    """A canvas, uint8 (3, S, S), from the bytes in which it is stored."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        # Contiguous, as decoding makes it: sums over pixels depend on their order in memory in the last bit.
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

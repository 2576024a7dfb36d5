"""Canvases read back from a run directory."""

from dataclasses import dataclass

import numpy as np

from transforms.data.chunks import UNLABELED, Chunk
from transforms.data.pixels import CanvasBatch
from transforms.rows.canvases import from_png
from transforms.rows.parts import canvases_part, images_part
from transforms.storage.store import Store


@dataclass(frozen=True, slots=True)
class CanvasRef:
    """A reference to the stored canvases of one chunk after one attack (`none`: as loaded)."""

    chunk: Chunk
    attack: str


def read_canvases(store: Store, reference: CanvasRef) -> CanvasBatch:
    """Reads the canvases that a reference stands for, with their labels: given ones, or those that a model gave."""
    table = store.read(canvases_part(reference.chunk.index, reference.attack))
    labels = _labels(store, reference.chunk)
    image_ids = tuple(table["image_id"].to_pylist())
    pixels = [from_png(png) for png in table["canvas"].to_pylist()]
    stacked = np.stack(pixels) if pixels else np.empty((0, 3, 0, 0), np.uint8)
    return CanvasBatch(image_ids, tuple(labels[image_id] for image_id in image_ids), stacked)


def _labels(store: Store, chunk: Chunk) -> dict[str, int]:
    """By image id."""
    given = {ref.image_id: ref.label for ref in chunk.refs if not ref.problem}
    if UNLABELED not in given.values():
        return given
    rows = store.rows_with(images_part(chunk.index), ["image_id", "label"])
    return dict(zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True))

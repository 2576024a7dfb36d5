"""Loading: image refs become clean canvases and rows of `images`."""

import hashlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from transforms.canvases import canvas_table
from transforms.chunks import Chunk, ImageRef, Work
from transforms.classes import class_name
from transforms.decode import BadImage, CanvasSpec, Decoded, decode
from transforms.read import read_bytes
from transforms.store import CLEAN, Store, canvases_part, failures_part, images_part
from transforms.tables import rows_table

MAX_BYTES = 64 * 2**20
"""An encoded image may not be larger than this."""


class LoadImages(beam.DoFn):
    """Work -> the same work, once its chunk's clean canvases, `images` rows and failures are stored. Idempotent."""

    def __init__(self, store: Store, canvas: CanvasSpec) -> None:
        self._store = store
        self._canvas = canvas

    def process(self, work: Work) -> Iterator[Work]:
        # The canvases are published last: where they are, the rest is.
        if not self._store.has(canvases_part(work.chunk.index, CLEAN)):
            load_chunk(self._store, work.chunk, self._canvas)
        yield work


def load_chunk(store: Store, chunk: Chunk, canvas: CanvasSpec) -> None:
    """Reads and decodes a chunk's images and stores what came of it. One bad image costs one row of `failures`."""
    image_rows, canvases, failures = [], [], []
    for ref in chunk.refs:
        try:
            if ref.problem:
                raise BadImage(ref.problem)
            data = read_bytes(ref.uri, MAX_BYTES)
            decoded = decode(data, canvas)
        except (BadImage, OSError) as error:
            failures.append(_failure_row(ref, error))
        else:
            image_rows.append(_image_row(ref, data, decoded))
            canvases.append(decoded.canvas)
    if failures:
        store.publish(failures_part(chunk.index, "load", CLEAN), rows_table("failures", failures))
    store.publish(images_part(chunk.index), rows_table("images", image_rows))
    image_ids = [row["image_id"] for row in image_rows]
    store.publish(canvases_part(chunk.index, CLEAN), canvas_table(image_ids, canvases))


def _image_row(ref: ImageRef, data: bytes, decoded: Decoded) -> dict[str, Any]:
    return {
        "image_id": ref.image_id,
        "uri": ref.uri,
        "label": ref.label,
        "label_name": class_name(ref.label),
        "width": decoded.width,
        "height": decoded.height,
        "bytes_sha256": hashlib.sha256(data).hexdigest(),
    }


def _failure_row(ref: ImageRef, error: Exception) -> dict[str, Any]:
    return {
        "image_id": ref.image_id,
        "uri": ref.uri,
        "model": None,
        "defense": None,
        "error_type": type(error).__name__,
        "message": str(error),
        "attempt": 1,
    }

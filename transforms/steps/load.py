"""Loading: image refs become clean canvases and rows of `images`."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from transforms.data.chunks import Chunk, ImageRef, Work
from transforms.data.decode import BadImage, CanvasSpec
from transforms.data.pixels import Pixels
from transforms.rows.canvases import canvas_table
from transforms.rows.failures import failure_row
from transforms.rows.images import image_row
from transforms.rows.parts import load_parts
from transforms.rows.tables import rows_table
from transforms.steps.process import prepare_numerics
from transforms.storage.crash_guard import death_rows, guarded
from transforms.storage.images import read_image
from transforms.storage.store import Store


class LoadImages(beam.DoFn):
    """Work -> the same work, once its chunk's clean canvases, `images` rows and failures are stored. Idempotent."""

    def __init__(self, store: Store, canvas: CanvasSpec) -> None:
        self._store = store
        self._canvas = canvas

    def setup(self) -> None:
        prepare_numerics()

    def process(self, work: Work) -> Iterator[Work]:
        if not all(self._store.has(part) for part in load_parts(work.chunk.index)):
            load_chunk(self._store, work.chunk, self._canvas)
        yield work


def load_chunk(store: Store, chunk: Chunk, canvas: CanvasSpec) -> None:
    """Reads and decodes a chunk's images and stores what came of it. One bad image costs one row of `failures`."""
    failures_at, images_at, canvases_at = load_parts(chunk.index)
    refs, ids = chunk.refs, [ref.image_id for ref in chunk.refs]
    kept, found = guarded(store, images_at.path, ids, lambda some: [_load(refs[number], canvas) for number in some])
    failures = death_rows(ids, kept)
    image_rows, canvases = [], []
    for row, pixels in found or []:
        if pixels is None:
            failures.append(row)
        else:
            image_rows.append(row)
            canvases.append(pixels)
    store.publish(failures_at, rows_table("failures", failures))
    store.publish(images_at, rows_table("images", image_rows))
    store.publish(canvases_at, canvas_table([row["image_id"] for row in image_rows], canvases))


def _load(ref: ImageRef, canvas: CanvasSpec) -> tuple[dict[str, Any], Pixels | None]:
    """A row of `images` and the canvas; or a row of `failures` and None."""
    try:
        data, decoded = read_image(ref, canvas)
    except BadImage as error:
        return failure_row(ref.image_id, type(error).__name__, str(error), ref.uri), None
    return image_row(ref, data, decoded), decoded.canvas

"""Loading: image refs become clean canvases and rows of `images`."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import apache_beam as beam

from transforms.data.chunks import Chunk, ImageRef, Work
from transforms.data.decode import BadImage, CanvasSpec, decode
from transforms.data.pixels import Pixels
from transforms.rows.canvases import canvas_table
from transforms.rows.failures import failure_row
from transforms.rows.images import image_row
from transforms.rows.parts import load_parts
from transforms.rows.tables import rows_table
from transforms.steps.context import StepContext
from transforms.steps.crash_guard import death_rows, guarded
from transforms.steps.metrics import counted, timed
from transforms.steps.process import Step
from transforms.steps.stored import Rows, publish
from transforms.storage.images import image_bytes
from transforms.storage.store import Store


class LoadImages(beam.PTransform):
    """Work -> the same work, once its chunk's clean canvases, `images` rows and failures are stored.

    Side effect: publishes these parts. Idempotent: what is stored is neither read nor written again.
    """

    def __init__(self, context: StepContext) -> None:
        super().__init__()
        self._context = context

    def expand(self, work: beam.PCollection) -> beam.PCollection:
        return work | "Load chunk" >> beam.ParDo(_LoadChunk(self._context))


class _LoadChunk(Step):
    def process(self, work: Work) -> Iterator[Work]:
        store = self._context.store
        if not all(store.has(part) for part in load_parts(work.chunk.index)):
            publish(store, load_chunk(store, work.chunk, self._context.canvas))
        yield work


def load_chunk(store: Store, chunk: Chunk, canvas: CanvasSpec) -> list[Rows]:
    """Reads and decodes a chunk's images; one bad image costs one row of `failures`.

    Returns:
        The parts that come of it, in the order of publication.
    """
    failures_at, images_at, canvases_at = load_parts(chunk.index)
    ids = [ref.image_id for ref in chunk.refs]
    groups = guarded(store, images_at.path, ids, partial(_load_some, chunk.refs, canvas))
    failures = death_rows(ids, [number for kept, _ in groups for number in kept])
    image_rows, canvases = [], []
    for row, pixels in chain.from_iterable(found for _, found in groups):
        if pixels is None:
            failures.append(row)
        else:
            image_rows.append(row)
            canvases.append(pixels)
    counted("images_loaded", len(image_rows))
    counted("images_failed", len(failures))
    with timed("rows", len(image_rows)):
        return [
            (failures_at, rows_table("failures", failures)),
            (images_at, rows_table("images", image_rows)),
            (canvases_at, canvas_table([row["image_id"] for row in image_rows], canvases)),
        ]


def _load_some(
    refs: Sequence[ImageRef], canvas: CanvasSpec, some: Sequence[int]
) -> list[tuple[dict[str, Any], Pixels | None]]:
    return [_load(refs[number], canvas) for number in some]


def _load(ref: ImageRef, canvas: CanvasSpec) -> tuple[dict[str, Any], Pixels | None]:
    """A row of `images` and the canvas; or a row of `failures` and None."""
    try:
        with timed("read", 1):
            data = image_bytes(ref)
        with timed("decode", 1):
            decoded = decode(data, canvas)
    except BadImage as error:
        return failure_row(ref.image_id, type(error).__name__, str(error), ref.uri), None
    return image_row(ref, data, decoded), decoded.canvas

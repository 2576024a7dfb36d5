"""Loading: image refs become clean canvases and rows of `images`."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import apache_beam as beam
import numpy as np

from transforms.data.chunks import Chunk, ImageRef, Work
from transforms.data.decode import BadImage, CanvasSpec, decode
from transforms.data.pixels import Pixels
from transforms.models.answers import most_probable
from transforms.rows.canvases import canvas_table
from transforms.rows.failures import failure_row
from transforms.rows.images import image_row, labelled
from transforms.rows.parts import load_parts
from transforms.rows.tables import rows_table
from transforms.steps.context import StepContext
from transforms.steps.crash_guard import death_rows, guarded
from transforms.steps.metrics import counted, timed
from transforms.steps.process import Step
from transforms.steps.stored import Rows, publish
from transforms.storage.images import image_bytes

_Loaded = tuple[dict[str, Any], Pixels | None]
"""A row of `images`, at first without its label, and the canvas; or a row of `failures` and None."""
_NO_ANSWER = "the answer of the model that labels it is NaN"


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
            publish(store, load_chunk(self._context, work.chunk))
        yield work


def load_chunk(context: StepContext, chunk: Chunk) -> list[Rows]:
    """Reads and decodes a chunk's images, and labels them where a model does; one bad image costs one row of
    `failures`.

    Returns:
        The parts that come of it, in the order of publication.
    """
    failures_at, images_at, canvases_at = load_parts(chunk.index)
    ids = [ref.image_id for ref in chunk.refs]
    if context.labeller is not None:
        context.models.target(context.labeller)  # Before the guard, as in attacking.
    groups = guarded(context.store, images_at.path, ids, partial(_load_some, context, chunk.refs))
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


def _load_some(context: StepContext, refs: Sequence[ImageRef], some: Sequence[int]) -> list[_Loaded]:
    found = [_load(refs[number], context.canvas) for number in some]
    if context.labeller is not None:
        return _labelled(context, context.labeller, found)
    given = [refs[number].label for number in some]
    return [
        (row if canvas is None else labelled(row, label), canvas)
        for label, (row, canvas) in zip(given, found, strict=True)
    ]


def _labelled(context: StepContext, by: str, found: list[_Loaded]) -> list[_Loaded]:
    """Images with the labels that a model gives them; without an answer, one is a row of `failures`."""
    loaded = [(row, canvas) for row, canvas in found if canvas is not None]
    done: list[_Loaded] = [(row, None) for row, canvas in found if canvas is None]
    if not loaded:
        return done
    with timed("predict", len(loaded)):
        model, canvases = context.models.target(by), np.stack([canvas for _, canvas in loaded])
        labels = most_probable(model, canvases, context.conditions)
    for (row, canvas), label in zip(loaded, labels, strict=True):
        if label is None:
            done.append((failure_row(row["image_id"], "FloatingPointError", _NO_ANSWER, row["uri"]), None))
        else:
            done.append((labelled(row, label, by), canvas))
    return done


def _load(ref: ImageRef, canvas: CanvasSpec) -> _Loaded:
    try:
        with timed("read", 1):
            data = image_bytes(ref)
        with timed("decode", 1):
            decoded = decode(data, canvas)
    except BadImage as error:
        return failure_row(ref.image_id, type(error).__name__, str(error), ref.uri), None
    return image_row(ref, data, decoded), decoded.canvas

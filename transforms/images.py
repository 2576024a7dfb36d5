"""Loading: image refs become clean canvases and rows of `images`."""

import errno
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import apache_beam as beam
import numpy as np

from transforms.attempts import death_rows, guarded
from transforms.canvases import CanvasBatch, Pixels, canvas_table
from transforms.chunks import Chunk, ImageRef, Work
from transforms.classes import class_name
from transforms.decode import BadImage, CanvasSpec, Decoded, decode
from transforms.read import read_bytes
from transforms.store import Store, load_parts
from transforms.tables import failure_row, rows_table

_MAX_BYTES = 64 * 2**20
"""An encoded image may not be larger than this."""

_MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}


class LoadImages(beam.DoFn):
    """Work -> the same work, once its chunk's clean canvases, `images` rows and failures are stored. Idempotent."""

    def __init__(self, store: Store, canvas: CanvasSpec) -> None:
        self._store = store
        self._canvas = canvas

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
    return _image_row(ref, data, decoded), decoded.canvas


def read_image(ref: ImageRef, canvas: CanvasSpec) -> tuple[bytes, Decoded]:
    """Reads and decodes one image; returns its encoded bytes as well.

    Raises:
        BadImage: it cannot be used, and that is the image's fault.
        OSError: the machine is out of something.
    """
    if ref.problem:
        raise BadImage(ref.problem)
    try:
        data = read_bytes(ref.uri, _MAX_BYTES)
    except OSError as error:
        if error.errno in _MACHINE_ERRORS:
            raise
        raise BadImage(f"cannot be read: {error}") from error
    return data, decode(data, canvas)


def read_batch(refs: Sequence[ImageRef], canvas: CanvasSpec) -> CanvasBatch | None:
    """Reads and decodes those images that can be; None if none can."""
    found = []
    for ref in refs:
        with suppress(BadImage):
            found.append((ref, read_image(ref, canvas)[1].canvas))
    if not found:
        return None
    ids, labels = zip(*((ref.image_id, ref.label) for ref, _ in found), strict=True)
    return CanvasBatch(ids, labels, np.stack([pixels for _, pixels in found]))


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

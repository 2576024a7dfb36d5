"""Images read from wherever they are, and decoded: bytes in, canvases out."""

import errno
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from transforms.data.chunks import ImageRef
from transforms.data.decode import BadImage, CanvasSpec, Decoded, decode
from transforms.data.pixels import CanvasBatch
from transforms.storage.files import read_bytes

_MAX_BYTES = 64 * 2**20
"""An encoded image may not be larger than this."""

_MACHINE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}


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

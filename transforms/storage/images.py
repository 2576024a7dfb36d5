"""Images read from wherever they are, and decoded: bytes in, canvases out."""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from time import sleep

import numpy as np

from transforms.data.chunks import ImageRef, Picture
from transforms.data.decode import BadImage, CanvasSpec, Decoded, decode, decode_as_is
from transforms.data.pixels import CanvasBatch, Pixels
from transforms.errors import StoppedError
from transforms.storage.files import is_remote, read_bytes, whole_file
from transforms.storage.parquet_images import read_row, row_of

_MAX_BYTES = 64 * 2**20
"""An encoded image may not be larger than this."""

_ITS_OWN = {errno.EFBIG, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODATA}
"""Errors that are the file's alone."""

_UNCLEAR = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM}
"""Errors that are the file's where its neighbours are well, and else the disk's: where a mount is gone, all are."""

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}

_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between tries, where a disk fails: a network's may come back."""

_NEIGHBOURS = 16
"""Files that are tried at most, to see whether one file is the only one that may not be read."""


def read_image(ref: ImageRef, canvas: CanvasSpec) -> tuple[bytes, Decoded]:
    """Reads and decodes one image; returns its encoded bytes as well. Raises what `image_bytes` and `decode` raise."""
    data = image_bytes(ref)
    return data, decode(data, canvas)


def image_bytes(ref: ImageRef) -> bytes:
    """The encoded bytes of one image.

    Raises:
        BadImage: it cannot be used, and that is the image's fault.
        StoppedError: its disk or object store does not give it, which need not be its fault: a failure row would stay.
        OSError: the machine is out of something.
    """
    if ref.problem:
        raise BadImage(ref.problem)
    return _read(ref.uri)


def read_batch(refs: Sequence[ImageRef], canvas: CanvasSpec) -> CanvasBatch:
    """Reads and decodes those images that can be; perhaps none."""
    found = []
    for ref in refs:
        with suppress(BadImage):
            found.append((ref, read_image(ref, canvas)[1].canvas))
    shape = len(found), 3, canvas.crop, canvas.crop
    pixels = np.array([each for _, each in found], np.uint8).reshape(shape)
    return CanvasBatch(tuple(ref.image_id for ref, _ in found), tuple(ref.label for ref, _ in found), pixels)


def read_picture(picture: Picture, side: int) -> Pixels:
    """Reads a picture that another tool has made of a canvas of so many pixels.

    Returns:
        uint8 (3, side, side).

    Raises:
        BadImage: it cannot be used, and that is the picture's fault.
        StoppedError, OSError: like `image_bytes`, or it is not the one that was listed.
    """
    if picture.problem:
        raise BadImage(picture.problem)
    data = _read(picture.uri)
    if sha256(data).hexdigest() != picture.sha256:
        raise StoppedError(f"{picture.uri} was changed after the run began; give the same command again")
    return decode_as_is(data, side)


def _read(uri: str) -> bytes:
    waits = iter(_WAITS)
    while True:
        try:
            return _encoded(uri)
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            if error.errno in _ITS_OWN or (error.errno in _UNCLEAR and _is_the_only_one(uri, error)):
                raise BadImage(f"cannot be read: {error}") from error
            if (wait := next(waits, None)) is None:
                reason = f"{error.strerror or error}; if its disk is well, take the image away"
                raise StoppedError(f"{uri} cannot be read: {reason}") from error
        sleep(wait)


def _encoded(uri: str) -> bytes:
    row = row_of(uri)
    if row is None:
        return read_bytes(uri, _MAX_BYTES)
    data = read_row(*row)
    if len(data) > _MAX_BYTES:
        raise OSError(errno.EFBIG, f"larger than {_MAX_BYTES} bytes", uri)
    return data


def _is_the_only_one(uri: str, error: OSError) -> bool:
    """Whether other files in the folder of one that is gone are there, or of one that is forbidden may be read."""
    path = whole_file(uri)
    if is_remote(path) or path != uri or row_of(uri):  # A store says if it is away; an archive is all images.
        return is_remote(path)
    try:
        with os.scandir(os.path.dirname(path)) as entries:  # noqa: PTH120 - a dangling link has one, too
            if error.errno not in (errno.EACCES, errno.EPERM):
                return any(entries)
            others = [entry.path for entry in entries if entry.path != path and entry.is_file()]
    except OSError:
        return False
    return not others or any(os.access(other, os.R_OK) for other in others[:_NEIGHBOURS])

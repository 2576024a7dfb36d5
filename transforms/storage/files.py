"""Bytes of a file, or of a slice of one, on any filesystem that Beam speaks."""

import errno
import re

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.errors import StoppedError
from transforms.storage.object_stores import os_errors

_SLICE = re.compile(r"(?P<path>.+)#bytes=(?P<first>[0-9]+)-(?P<last>[0-9]+)", re.DOTALL)


def is_remote(path: str) -> bool:
    """Whether a path starts with a scheme: `s3://`, `gs://` …"""
    return FileSystems.get_scheme(path) is not None


def slice_uri(path: str, first: int, size: int) -> str:
    """Names `size` >= 1 bytes of the file at `path`, starting at byte `first`: `path#bytes=first-last`."""
    return f"{path}#bytes={first}-{first + size - 1}"


def read_bytes(uri: str, limit: int) -> bytes:
    """Reads a whole file, or the slice that a `#bytes=FIRST-LAST` suffix (inclusive) names. Never decompresses.

    A `#` or `%` elsewhere in the uri stands for itself.

    Args:
        uri: path on any filesystem that Beam speaks.
        limit: the largest size to accept, in bytes. No more than `limit` + 1 bytes are read.

    Raises:
        OSError: the file is missing, larger than `limit` (EFBIG), ends inside the slice, or is local and unreadable.
        StoppedError: an object store does not give the file, which need not be the file's fault.
    """
    part = _SLICE.fullmatch(uri)
    if part is None:
        data = _read(uri, 0, limit + 1)
        size = len(data)
    else:
        first, last = int(part["first"]), int(part["last"])
        size = last - first + 1
        data = _read(part["path"], first, size) if size <= limit else b""
    if size > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", uri)
    if len(data) < size:
        raise OSError(errno.EIO, f"file ends inside the slice, after {len(data)} of {size} bytes", uri)
    return data


def _read(path: str, first: int, size: int) -> bytes:
    try:
        with os_errors(path), FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.seek(first)
            return bytes(file.read(size))
    except OSError as error:
        # A failure row stays for good: one that is gone is worth it. A refusal may be of all of them, and may end.
        if is_remote(path) and error.errno != errno.ENOENT:
            raise StoppedError(f"{path} cannot be read: {error.strerror or error}") from error
        raise

"""Bytes of a file, or of a slice of one, on a disk or an object store.

Object stores are reached through Beam's filesystems, which take seconds to import: `object_stores` is imported when a
remote path is first used, and nowhere else.
"""

import errno
import os
import re
import stat
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from transforms.errors import StoppedError

_REMOTE = re.compile(r"[a-zA-Z][-a-zA-Z0-9+.]*://")
_SLICE = re.compile(r"(?P<path>.+)#bytes=(?P<first>[0-9]+)-(?P<last>[0-9]+)", re.DOTALL)


def is_remote(path: str) -> bool:
    """Whether a path starts with a scheme: `s3://`, `gs://` …"""
    return _REMOTE.match(path) is not None


def remote() -> ModuleType:
    """The module that reaches object stores, ready for use."""
    from transforms.storage import object_stores  # noqa: PLC0415 - said above

    object_stores.prepare()
    return object_stores


def absolute(path: str) -> str:
    """A local path made absolute (`~` is the home directory); a remote one without its trailing slash."""
    if is_remote(path):
        return path.rstrip("/")
    return os.path.normpath(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 - Path's raises for ~nobody


def exists(path: str) -> bool:
    """Whether there is something at a path. Raises OSError if an object store cannot be asked."""
    return bool(remote().exists(path)) if is_remote(path) else os.path.exists(path)  # noqa: PTH110 - never raises


def open_to_read(path: str) -> BinaryIO:
    """A file to read from, as it is. Raises OSError if there is none."""
    if not is_remote(path):
        return _open(path)
    file: BinaryIO = remote().open_to_read(path)
    return file


def whole_file(uri: str) -> str:
    """The path of the file that a uri is, or is a slice of."""
    part = _SLICE.fullmatch(uri)
    return uri if part is None else part["path"]


def slice_uri(path: str, first: int, size: int) -> str:
    """Names `size` >= 1 bytes of the file at `path`, starting at byte `first`: `path#bytes=first-last`."""
    return f"{path}#bytes={first}-{first + size - 1}"


def read_bytes(uri: str, limit: int) -> bytes:
    """Reads a whole file, or the slice that a `#bytes=FIRST-LAST` suffix (inclusive) names. Never decompresses.

    A `#` or `%` elsewhere in the uri stands for itself.

    Args:
        uri: local path, or remote path on a filesystem that Beam speaks.
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
        raise OSError(errno.ENODATA, f"file ends inside the slice, after {len(data)} of {size} bytes", uri)
    return data


def _open(path: str) -> BinaryIO:
    """Opens a file of a disk to read from. What might never answer or never end, such as a pipe, raises OSError."""
    mode = Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # A folder raises an error of its own.
        raise OSError(errno.EINVAL, "is a pipe, a socket or a device, not a file", path)
    return Path(path).open("rb")


def _read(path: str, first: int, size: int) -> bytes:
    try:
        if is_remote(path):
            data: bytes = remote().read(path, first, size)
            return data
        with _open(path) as file:
            file.seek(first)
            return file.read(size)
    except OSError as error:
        # A failure row stays for good: one that is gone is worth it. A refusal may be of all of them, and may end.
        if is_remote(path) and error.errno != errno.ENOENT:
            raise StoppedError(f"{path} cannot be read: {error.strerror or error}") from error
        raise

"""Object stores behind Beam's filesystems: listings, deletion in bulk, errors as OSError, one S3 client."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from threading import Lock
from types import SimpleNamespace
from typing import Any, BinaryIO

from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.errors import said_by

_boto3 = boto3_client.boto3  # None where it is not installed
_making_a_client = Lock()


@contextmanager
def os_errors(path: str) -> Iterator[None]:
    """Turns what the clients of object stores raise into OSError that names the path.

    Raises:
        OSError: ENOENT where there is no such object, EIO for all else.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if getattr(error, "code", None) == HTTPStatus.NOT_FOUND:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", path) from error
        raise OSError(errno.EIO, said_by(error), path) from error


def options() -> PipelineOptions:
    """What Beam's filesystems were told; if nothing, the defaults from now on: then the environment says how."""
    if FileSystems._pipeline_options is None:
        FileSystems.set_options(PipelineOptions([]))
    return FileSystems._pipeline_options


def speaks(path: str) -> bool:
    """Whether there is a filesystem for the path's scheme."""
    try:
        FileSystems.get_filesystem(path)
    except ValueError:
        return False
    return True


def read(path: str, first: int, size: int) -> bytes:
    """No more than `size` bytes of an object, from byte `first`, as they are. Raises OSError if it cannot."""
    with os_errors(path), FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.seek(first)
        return bytes(file.read(size))


def open_to_read(path: str) -> BinaryIO:
    """An object to read from, as it is. Raises OSError if there is none."""
    with os_errors(path):
        file: BinaryIO = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        return file


def write(path: str, content: bytes) -> None:
    """Writes an object, whole or not at all. Raises OSError if it cannot."""
    with os_errors(path), FileSystems.create(path, mime_type="application/octet-stream") as file:
        file.write(content)


def rename(path: str, new: str) -> None:
    """Renames an object, over any that has the name. Raises OSError if it cannot."""
    with os_errors(new):
        FileSystems.rename([path], [new])


def exists(path: str) -> bool:
    """Whether there is such an object. Raises OSError if its store cannot be asked."""
    with os_errors(path):
        return bool(FileSystems.exists(path))


def paths_below(folder: str, begin: str = "") -> set[str]:
    """Lists the objects below a remote folder: paths relative to it. Raises OSError if it cannot.

    Args:
        begin: how the paths begin.
    """
    # Beam cannot quote glob characters: match any character in their place, then compare.
    pattern = re.sub(r"[\[*?]", "?", f"{folder}/{begin}") + "**"
    with os_errors(folder):
        (matched,) = FileSystems.match([pattern])
    # The consoles of object stores show a folder by an object whose name ends in a slash.
    return {
        found.path.removeprefix(f"{folder}/")
        for found in matched.metadata_list
        if found.path.startswith(f"{folder}/") and not found.path.endswith("/")
    }


def delete_objects(paths: Sequence[str]) -> None:
    """Deletes objects of one store, many by one request. What is not there is passed over.

    Raises:
        OSError: one of them cannot be deleted.
    """
    with os_errors(paths[0]):
        if FileSystems.get_scheme(paths[0]) != "gs":
            FileSystems.delete(paths)
            return
        # Of GCS, Beam's delete takes names for patterns, and makes four requests for each.
        for path, status in FileSystems.get_filesystem(paths[0])._gcsIO().delete_batch(list(paths)):
            if status is not None:
                raise OSError(errno.EIO, f"cannot be deleted: HTTP status {status}", path)


@cache
def _s3_client(**settings: Any) -> Any:
    return _boto3.session.Session().client(**settings)


def _shared_s3_client(**settings: Any) -> Any:
    with _making_a_client:  # boto3's clients may be shared by threads, but not made by several at once
        return _s3_client(**settings)


def forget_s3_clients() -> None:
    """Lets the next client look for credentials anew."""
    _s3_client.cache_clear()


@cache
def prepare() -> None:
    """Lets Beam's filesystems use one S3 client, and ask GCS no needless questions; for this process, once.

    Beam makes a boto3 session and a client for each operation on a file, which parses all of botocore's endpoints
    (0.14 s of CPU) and opens a connection of its own. It gets the same client for the same settings. Of GCS it makes a
    client for each operation, which would ask for its bucket as well, for traces that nobody reads.
    """
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    if _boto3 is not None:
        session = SimpleNamespace(Session=lambda: SimpleNamespace(client=_shared_s3_client))
        boto3_client.boto3 = SimpleNamespace(session=session)

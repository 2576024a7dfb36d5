"""Object stores behind Beam's filesystems: listings with sizes, errors as OSError, and S3 clients that are kept."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from threading import Lock
from types import SimpleNamespace
from typing import Any

from apache_beam.io.aws.clients.s3 import boto3_client
from apache_beam.io.filesystems import FileSystems

_boto3 = boto3_client.boto3  # None where it is not installed
_making_a_client = Lock()


@contextmanager
def os_errors(path: str) -> Iterator[None]:
    """Turns what the clients of object stores raise into OSError that names the path.

    Raises:
        OSError: ENOENT where there is no such object, EINVAL for a path that no filesystem takes, EIO for all else.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if getattr(error, "code", None) == HTTPStatus.NOT_FOUND:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", path) from error
        number = errno.EINVAL if isinstance(error, ValueError) else errno.EIO
        raise OSError(number, f"{type(error).__name__}: {error}", path) from error


def sizes_below(folder: str) -> dict[str, int]:
    """Lists the objects below a remote folder: path relative to it → size in bytes. Raises OSError if it cannot."""
    # Beam cannot quote glob characters: match any character in their place, then compare.
    pattern = re.sub(r"[\[*?]", "?", folder) + "/**"
    with os_errors(folder):
        (matched,) = FileSystems.match([pattern])
    # The consoles of object stores show a folder by an object whose name ends in a slash.
    return {
        found.path.removeprefix(f"{folder}/"): found.size_in_bytes
        for found in matched.metadata_list
        if found.path.startswith(f"{folder}/") and not found.path.endswith("/")
    }


@cache
def _s3_client(**settings: Any) -> Any:
    return _boto3.session.Session().client(**settings)


def _shared_s3_client(**settings: Any) -> Any:
    with _making_a_client:  # boto3's clients may be shared by threads, but not made by several at once
        return _s3_client(**settings)


def forget_s3_clients() -> None:
    """Lets the next client look for credentials anew."""
    _s3_client.cache_clear()


# Beam makes a boto3 session and a client for each operation on a file, which parses all of botocore's endpoints (0.14 s
# of CPU) and opens a connection of its own. In this process it gets the same client for the same settings.
if _boto3 is not None:
    boto3_client.boto3 = SimpleNamespace(
        session=SimpleNamespace(Session=lambda: SimpleNamespace(client=_shared_s3_client))
    )

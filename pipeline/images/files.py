"""Where files are, on any filesystem that Beam speaks. Only listings and tar headers are read, never contents.

Every error names the experiment's key, as in `images.folder`, and the value that it had.
"""

import os
import tarfile
from pathlib import Path

from transforms.errors import InputError, printable, said_by
from transforms.storage import files
from transforms.storage.files import absolute, is_remote, remote, slice_uri
from transforms.storage.preflight import reach


def locate(key: str, path: str, folder: str) -> str:
    """Finds a file named by the experiment: in `folder` first, then in the current directory.

    Args:
        key: the key under `images:` that gave the path.
        path: relative, absolute or remote.
        folder: absolute path of the images' folder.

    Raises:
        InputError: it is in neither place, or an object store cannot be asked.
    """
    if is_remote(path) or Path(path).expanduser().is_absolute():
        places = [absolute(path)]
    else:
        places = [f"{folder}/{path}", absolute(path)]
    for place in places:
        reach(f"images.{key}", place)
        if exists(key, place):
            return place
    raise InputError(f"images.{key}: there is no {path!r}; looked for {printable(' and '.join(places))}")


def exists(key: str, path: str) -> bool:
    """Whether there is a file at `path`.

    Raises:
        InputError: its filesystem cannot be asked.
    """
    try:
        return files.exists(path)
    except Exception as error:  # A filesystem that is not installed, credentials, the network …
        raise _unreadable(key, path, error) from error


def list_files(key: str, folder: str) -> dict[str, str]:
    """Lists all files below a folder, in its sub-folders too: path relative to the folder → uri.

    Raises:
        InputError: the folder is missing, is no folder, or cannot be listed.
    """
    if not is_remote(folder) and not Path(folder).is_dir():
        what = "is not a folder" if Path(folder).exists() else "does not exist"
        raise InputError(f"images.{key}: {folder!r} {what}; give a folder of images")
    try:
        uris = [f"{folder}/{name}" for name in remote().paths_below(folder)] if is_remote(folder) else _walk(folder)
    except Exception as error:  # Whatever the client of an object store raises.
        raise _unreadable(key, folder, error) from error
    return {uri[len(folder) + 1 :]: uri for uri in sorted(uris)}


def list_tar(key: str, tar: str) -> dict[str, str]:
    """Lists the files in an uncompressed tar archive: name in the archive → uri of its slice of the archive.

    Locally this seeks from header to header; on an object store most of the archive passes through the reader.

    Raises:
        InputError: the archive is missing, compressed or truncated.
    """
    try:
        with (
            files.open_to_read(tar) as file,
            tarfile.open(fileobj=file, mode="r:") as archive,
        ):
            return {
                member.name.removeprefix("./"): slice_uri(tar, member.offset_data, member.size)
                for member in archive
                if member.isreg() and not member.issparse() and member.size
            }
    except tarfile.TarError as error:
        raise InputError(f"images.{key}: {tar!r} is no complete, uncompressed tar archive: {said_by(error)}") from error
    except Exception as error:  # Whatever the client of an object store raises.
        raise _unreadable(key, tar, error) from error


def _walk(folder: str) -> list[str]:
    def fail(error: OSError) -> None:
        raise error

    walked = os.walk(folder, onerror=fail, followlinks=True)
    return [f"{parent}/{name}" for parent, _, names in walked for name in names]


def _unreadable(key: str, path: str, error: Exception) -> InputError:
    return InputError(f"images.{key}: {path!r} cannot be read: {said_by(error)}")

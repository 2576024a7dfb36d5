"""Where files are, on any filesystem that Beam speaks. Only listings and tar headers are read, never contents.

Every error names the experiment's key, which is given as `where`, as in `images.folder`, and the value that it had.
"""

import errno
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from transforms.errors import InputError, printable, said_by
from transforms.storage import files
from transforms.storage.files import absolute, is_remote, remote, slice_uri
from transforms.storage.preflight import reach

_MAX_TEXT = 2**20
"""Bytes of a text in an archive."""


class Files(NamedTuple):
    """What was found in a folder or a tar archive.

    Attributes:
        uris: by the path in it, sorted.
        again: links that lead to what was found already, and to which path.
        texts: contents of members of an archive, as far as they were asked for.
    """

    uris: dict[str, str]
    again: dict[str, str]
    texts: Mapping[str, bytes] = MappingProxyType({})


def locate(where: str, path: str, folder: str) -> str:
    """Finds a file named by the experiment: in `folder` first, then in the current directory.

    Args:
        where: the key that gave the path, such as `images.labels`.
        path: relative, absolute or remote.
        folder: absolute path of the images' folder.

    Raises:
        InputError: it is in neither place, or an object store cannot be asked.
    """
    if is_remote(path) or path.startswith(("/", "~")) or Path(path).is_absolute():
        places = [absolute(path)]
    else:
        places = [f"{folder}/{path}", absolute(path)]
    for place in places:
        reach(where, place)
        if exists(where, place):
            return place
    raise InputError(f"{where}: there is no {path!r}; looked for {printable(' and '.join(places))}")


def exists(where: str, path: str) -> bool:
    """Whether there is a file at `path`.

    Raises:
        InputError: its filesystem cannot be asked.
    """
    try:
        return files.exists(path)
    except Exception as error:  # A filesystem that is not installed, credentials, the network …
        raise _unreadable(where, path, error) from error


def list_files(where: str, folder: str) -> Files:
    """Lists all files below a folder, in its sub-folders and behind links too.

    On a disk each folder and each file counts once, whatever leads to it: under its own name where it is in the folder,
    else under the first link's. So links that lead in circles end.

    Raises:
        InputError: the folder is missing, is no folder, or cannot be listed.
    """
    if not is_remote(folder) and not Path(folder).is_dir():
        if exists(where, folder):
            raise InputError(f"{where}: {folder!r} is not a folder; {_instead(folder)}")
        raise InputError(f"{where}: {folder!r} does not exist; give a folder of images")
    try:
        found = Files(dict.fromkeys(remote().paths_below(folder), ""), {}) if is_remote(folder) else _walk(folder)
    except Exception as error:  # Whatever the client of an object store raises.
        raise _unreadable(where, folder, error) from error
    return found._replace(uris={name: f"{folder}/{name}" for name in sorted(found.uris)})


def _instead(path: str) -> str:
    """What to do with a file that is no folder."""
    name = f"{path}.".lower()
    if any(f".{each}" in name for each in ("tar.", "tgz.", "zip.")):
        return "unpack it: images.imagenet, images.webdataset and pictures may be in an archive, an uncompressed .tar"
    return "images.parquet reads such files" if ".parquet." in name else "give a folder of images"


def list_tar(where: str, tar: str, is_read: Callable[[str], bool] = lambda _: False) -> Files:
    """Lists the files in an uncompressed tar archive; their uris name slices of the archive.

    Locally this seeks from header to header; on an object store most of the archive passes through the reader.

    Args:
        is_read: whether the content of a member is wanted; of one megabyte at most, or it is not taken.

    Raises:
        InputError: the archive is missing, compressed or truncated.
    """
    try:
        with (
            files.open_to_read(tar) as file,
            tarfile.open(fileobj=file, mode="r:") as archive,
        ):
            uris, again, texts = dict[str, str](), dict[str, str](), dict[str, bytes]()
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isreg() and not member.issparse() and member.size:
                    uris[name] = slice_uri(tar, member.offset_data, member.size)
                    if is_read(name) and member.size <= _MAX_TEXT and (content := archive.extractfile(member)):
                        texts[name] = content.read()
                elif member.islnk() or member.issym():
                    again[name] = member.linkname
            return Files(uris, again, texts)
    except tarfile.TarError as error:
        raise InputError(f"{where}: {tar!r} is no complete, uncompressed tar archive: {said_by(error)}") from error
    except Exception as error:  # Whatever the client of an object store raises.
        raise _unreadable(where, tar, error) from error


def _walk(folder: str) -> Files:
    """Goes through folders that are none of links first, then behind links in sorted order; and so for files."""
    found: dict[object, str] = {}
    linked_files, again = list[str](), dict[str, str]()
    folders, linked_folders = [""], list[str]()
    uris: dict[str, str] = {}

    def is_new(name: str) -> bool:
        identity = _identity(f"{folder}/{name}") or name
        first = found.setdefault(identity, name)
        if first != name:
            again[name] = first or "the folder itself"
        return first == name

    while folders or linked_folders:
        parent = folders.pop() if folders else linked_folders.pop(0)
        if not is_new(parent):
            continue
        inside, links = list[str](), list[str]()
        with os.scandir(f"{folder}/{parent}") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{parent}/{entry.name}" if parent else entry.name
                if _is_folder(entry):
                    (links if entry.is_symlink() else inside).append(name)
                elif entry.is_symlink():
                    linked_files.append(name)
                elif is_new(name):
                    uris[name] = ""
        folders += inside[::-1]
        linked_folders = sorted(linked_folders + links)
    uris |= {name: "" for name in sorted(linked_files) if is_new(name)}
    return Files(uris, again)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # Such a link is met again when it is read, if it has the name of an image.
        if error.errno in (errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG):
            return False
        raise


def _identity(path: str) -> object:
    """What two names of one file have in common, and other files (some network disks repeat inodes) do not.

    None where it cannot be told.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status.st_ino else None


def _unreadable(where: str, path: str, error: Exception) -> InputError:
    return InputError(f"{where}: {path!r} cannot be read: {said_by(error)}")

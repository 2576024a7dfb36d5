"""Parts: the files of a run directory, named by what they hold, published whole or not at all."""

import io
import os
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from transforms.read import is_remote
from transforms.remote import os_errors, sizes_below
from transforms.tables import TABLES

CLEAN = "none"
"""The attack column of what was not attacked."""

_MAGIC = b"PAR1"
_SHORTEST = 12  # bytes: the magic twice, and the length of the footer between
_TEMPORARY = re.compile(r"(.*/)?\.[^/]+\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file: a table's rows of one chunk, under given values of the table's partition columns."""

    table: str
    chunk: int
    keys: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Relative to the run directory, e.g. `attacks/attack=mi4/chunk-00003.parquet`."""
        partitions = TABLES[self.table].partitions
        folders = [f"{name}={quote(key, safe='')}" for name, key in zip(partitions, self.keys, strict=True)]
        return "/".join([self.table, *folders, f"chunk-{self.chunk:05d}.parquet"])


def images_part(chunk: int) -> Part:
    return Part("images", chunk)


def canvases_part(chunk: int, attack: str) -> Part:
    return Part("canvases", chunk, (attack,))


def attacks_part(chunk: int, attack: str) -> Part:
    return Part("attacks", chunk, (attack,))


def predictions_part(chunk: int, attack: str, model: str, view: str, defense: str) -> Part:
    return Part("predictions", chunk, (attack, model, view, defense))


def _failures_part(chunk: int, stage: str, attack: str) -> Part:
    return Part("failures", chunk, (stage, attack, CLEAN, CLEAN, CLEAN))


def load_parts(chunk: int) -> tuple[Part, ...]:
    """What loading a chunk makes, in the order of publication. Failures are a part even where there are none."""
    return _failures_part(chunk, "load", CLEAN), images_part(chunk), canvases_part(chunk, CLEAN)


def attack_parts(chunk: int, attack: str) -> tuple[Part, ...]:
    """What attacking a chunk makes, in the order of publication."""
    return _failures_part(chunk, "attack", attack), canvases_part(chunk, attack), attacks_part(chunk, attack)


def is_temporary(path: str) -> bool:
    """Whether a file is one that `Store.publish` had not finished."""
    return _TEMPORARY.fullmatch(path) is not None


class Store:
    """Reads and publishes files under a root, on any filesystem that Beam speaks. Small and picklable."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def has(self, part: Part) -> bool:
        """Whether the part has been published."""
        return self.exists(part.path)

    def read(self, part: Part) -> pa.Table:
        """The part's rows; partition columns are not among them.

        Raises:
            OSError: it is missing, or damaged; the message names it.
        """
        try:
            return pq.read_table(pa.BufferReader(self.read_bytes(part.path)), schema=TABLES[part.table].columns)
        except pa.ArrowException:
            raise OSError(f"{self._at(part.path)} is damaged; delete it, and it is made again") from None

    def publish(self, part: Part, rows: pa.Table) -> None:
        """Writes a part under a temporary name and renames it: seen whole or not at all. Idempotent.

        A part that is there with the same content stays untouched.

        Raises:
            OSError: the filesystem refuses, for example because it is full.
        """
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        if not (self.has(part) and self.read_bytes(part.path) == buffer.getvalue()):
            self.publish_bytes(part.path, buffer.getvalue())

    def publish_bytes(self, path: str, content: bytes) -> None:
        """Publishes any file, the same way; `path` is relative to the root."""
        folder, _, name = self._at(path).rpartition("/")
        # Readers of Parquet folders pass over names that begin with a dot.
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            with os_errors(temporary), FileSystems.create(temporary, mime_type="application/octet-stream") as file:
                file.write(content)
            with os_errors(self._at(path)):
                FileSystems.rename([temporary], [self._at(path)])
        except BaseException:
            with suppress(Exception):
                self.delete([temporary.removeprefix(f"{self.root}/")])
            raise

    def read_bytes(self, path: str) -> bytes:
        """A file's content; `path` is relative to the root. Raises OSError if there is none."""
        with os_errors(self._at(path)), self.open(path) as file:
            return file.read()

    def open(self, path: str) -> BinaryIO:
        """A file to read from; `path` is relative to the root. Raises OSError if there is none."""
        with os_errors(self._at(path)):
            file: BinaryIO = FileSystems.open(self._at(path), mime_type="application/octet-stream")
            return file

    def exists(self, path: str) -> bool:
        """Whether there is a file; `path` is relative to the root."""
        with os_errors(self._at(path)):
            return bool(FileSystems.exists(self._at(path)))

    def paths(self) -> set[str]:
        """All files under the root, relative to it; unfinished ones too."""
        if is_remote(self.root):
            return set(sizes_below(self.root))
        # Beam's local match cannot be told that a folder's name holds a `[`.
        walked = os.walk(self.root)
        return {f"{parent}/{name}".removeprefix(f"{self.root}/") for parent, _, names in walked for name in names}

    def whole(self, paths: Iterable[str]) -> set[str]:
        """Those of these Parquet files that are whole.

        Objects are published whole or not at all, so that on an object store the sizes in a listing are enough.
        """
        if is_remote(self.root):
            sizes = sizes_below(self.root)
            return {path for path in paths if sizes.get(path, 0) >= _SHORTEST}
        return set(filter(self.is_whole, paths))

    def is_whole(self, path: str) -> bool:
        """Whether a Parquet file begins and ends as one, which a truncated one does not."""
        with self.open(path) as file:
            start = file.read(len(_MAGIC))
            length = file.seek(0, io.SEEK_END)
            file.seek(max(length - len(_MAGIC), 0))
            return bool(start == _MAGIC == file.read()) and length >= _SHORTEST

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes files; paths are relative to the root."""
        doomed = [self._at(path) for path in paths]
        if not is_remote(self.root):
            for path in doomed:  # Beam's local delete takes names for patterns.
                Path(path).unlink(missing_ok=True)
        elif doomed:
            with os_errors(self.root):
                FileSystems.delete(doomed)

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"

"""Parts: the files of a run directory, named by what they hold, published whole or not at all."""

import os
import re
import uuid
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from transforms.read import is_remote
from transforms.remote import delete_objects, os_errors, paths_below
from transforms.seal import is_whole, sealed
from transforms.tables import TABLES

CLEAN = "none"
"""The attack column of what was not attacked."""

GROUPS = {**dict.fromkeys(TABLES, 256), "canvases": 16}
"""Of each table, chunks whose parts of one kind are made one file at the end of a large run."""

THREADS = 8
"""How many files are waited for at once."""
_FILE = re.compile(r"(?P<table>[^/]+)/(?P<folders>(.+/)?)(?P<kind>chunk|group)-(?P<number>[0-9]{5,})\.parquet")
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
        return f"{self.folder}/chunk-{self.chunk:05d}.parquet"

    @property
    def gathered(self) -> str:
        """Where its rows are once they have been gathered, e.g. `attacks/attack=mi4/group-00000.parquet`."""
        return f"{self.folder}/group-{self.chunk // GROUPS[self.table]:05d}.parquet"

    @property
    def folder(self) -> str:
        """Where it is with those of other chunks, e.g. `attacks/attack=mi4`."""
        partitions = TABLES[self.table].partitions
        folders = [f"{name}={quote(key, safe='')}" for name, key in zip(partitions, self.keys, strict=True)]
        return "/".join([self.table, *folders])


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


def part_of(path: str) -> Part | None:
    """The part that a file of one chunk is; None for any other file."""
    found = _FILE.fullmatch(path)
    if found is None or found["kind"] == "group":
        return None
    table, folders = found["table"], found["folders"].split("/")[:-1]
    names, keys = [each.partition("=")[0] for each in folders], [each.partition("=")[2] for each in folders]
    if table not in TABLES or names != list(TABLES[table].partitions):
        return None
    return Part(table, int(found["number"]), tuple(map(unquote, keys)))


def chunks_in(path: str) -> range:
    """The chunks whose rows a table's file holds, by its name: one, or a group's; none if it is no such file."""
    found = _FILE.fullmatch(path)
    if found is None or found["table"] not in GROUPS:
        return range(0)
    size, number = GROUPS[found["table"]] if found["kind"] == "group" else 1, int(found["number"])
    return range(number * size, (number + 1) * size)


def of_tables(paths: Iterable[str]) -> set[str]:
    """Those files of a run directory that its tables consist of; what else lies in it is somebody else's."""
    return {path for path in paths if path.endswith(".parquet") and path.partition("/")[0] in TABLES}


def superseded(paths: Collection[str]) -> set[str]:
    """Parts that are still there although they have been gathered: a reader must not see their rows twice."""
    return {path for path in paths if (part := part_of(path)) and part.gathered in paths}


def is_temporary(path: str) -> bool:
    """Whether a file is one that `Store.publish` had not finished."""
    return _TEMPORARY.fullmatch(path) is not None


class Store:
    """Reads and publishes files under a root, on any filesystem that Beam speaks. Small and picklable."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def has(self, part: Part) -> bool:
        """Whether the part has been published, and perhaps gathered since."""
        return self.exists(part.path) or self.exists(part.gathered)

    def read(self, part: Part) -> pa.Table:
        """The rows of a part; partition columns are not among them.

        Raises:
            OSError: it is missing, or damaged; the message names it. Only canvases can be read once they are gathered.
        """
        try:
            content = self.read_bytes(part.path)
        except FileNotFoundError:
            if part.table != "canvases" or not self.exists(part.gathered):
                raise
            return self._read_gathered(part)
        with suppress(pa.ArrowException):
            if is_whole(content):
                return pq.read_table(pa.BufferReader(content), schema=TABLES[part.table].columns)
        raise self._damaged(part.path)

    def _read_gathered(self, part: Part) -> pa.Table:
        """Its own row group only: the whole file is many times as large."""
        with self.open(part.gathered) as file, os_errors(self._at(part.gathered)):
            try:
                groups = pq.ParquetFile(file, page_checksum_verification=True)
                rows = groups.read_row_group(part.chunk % GROUPS[part.table])
                return rows.cast(TABLES[part.table].columns)
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None):  # The filesystem's; Parquet's own have none.
                    raise
                raise self._damaged(part.gathered) from None

    def _damaged(self, path: str) -> OSError:
        # Of what an object store holds `whole` believes that it is.
        first = "delete it, and " if is_remote(self.root) else ""
        return OSError(f"{self._at(path)} is damaged; {first}the same command makes it again")

    def publish(self, part: Part, rows: pa.Table) -> None:
        """Writes a part under a temporary name and renames it: seen whole or not at all. Idempotent.

        A part that is there with the same content stays untouched.

        Raises:
            OSError: the filesystem refuses, for example because it is full.
        """
        content = sealed(rows)
        if not (self.exists(part.path) and self.read_bytes(part.path) == content):
            self.publish_bytes(part.path, content)

    def publish_bytes(self, path: str, content: bytes, *, lasting: bool = True) -> None:
        """Publishes any file, the same way; `path` is relative to the root.

        Args:
            lasting: whether it is to outlive a loss of power. It outlives its process in any case, and object stores
                see to the rest themselves.
        """
        folder, _, name = self._at(path).rpartition("/")
        # Readers of Parquet folders pass over names that begin with a dot.
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            with os_errors(temporary), FileSystems.create(temporary, mime_type="application/octet-stream") as file:
                file.write(content)
                if lasting and not is_remote(self.root):
                    file.flush()
                    os.fsync(file.fileno())
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

    def paths(self, folder: str = "") -> set[str]:
        """All files under the root, or a folder in it, relative to the root; unfinished ones too."""
        below = self._at(folder).rstrip("/")
        if is_remote(self.root):
            return {f"{folder}/{path}".lstrip("/") for path in paths_below(below)}
        # Beam's local match cannot be told that a folder's name holds a `[`.
        walked = os.walk(below, onerror=_unless_it_went)
        return {f"{parent}/{name}".removeprefix(f"{self.root}/") for parent, _, names in walked for name in names}

    def whole(self, paths: Iterable[str]) -> set[str]:
        """Those of these files, all there, that are whole Parquet: every byte is compared with the file's seal.

        On an object store, which keeps bytes itself and publishes objects whole or not at all, all are.
        """
        files = list(paths)
        if is_remote(self.root):
            return set(files)
        with ThreadPoolExecutor(THREADS) as threads:
            return {path for path, good in zip(files, threads.map(self.is_whole, files), strict=True) if good}

    def is_whole(self, path: str) -> bool:
        """Whether a Parquet file is, byte for byte, what was published."""
        return is_whole(self.read_bytes(path))

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes files; paths are relative to the root."""
        doomed = [self._at(path) for path in paths]
        if not is_remote(self.root):
            for path in doomed:  # Beam's local delete takes names for patterns.
                Path(path).unlink(missing_ok=True)
        elif doomed:
            delete_objects(doomed)

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"


def _unless_it_went(error: OSError) -> None:
    """A folder that cannot be listed is said; one that is not there is empty."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error

"""Parts: the files of a run directory, named by what they hold, published whole or not at all."""

import errno
import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate, chain, pairwise, starmap
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.rows.parts import (
    BUNDLED,
    GROUPS,
    Bundle,
    Keys,
    Part,
    is_unknown_bundle,
    learn,
    table_file,
)
from transforms.rows.tables import TABLES
from transforms.storage.files import exists, is_remote, open_to_read, remote
from transforms.storage.seal import is_whole, sealed

THREADS = 8
"""How many files are waited for at once."""
_HELD = b"bundle"
"""What the footer of a bundle calls its keys, and how many rows there are with each."""
_NO_FOOTER = (OSError, ValueError, LookupError, TypeError, RecursionError, pa.ArrowException)
"""What comes of reading keys where nobody wrote any."""
_TEMPORARY = re.compile(r"(.*/)?\.[^/]+\.[0-9a-f]{32}\.tmp")


def is_temporary(path: str) -> bool:
    """Whether a file is one that `Store.publish` had not finished."""
    return _TEMPORARY.fullmatch(path) is not None


class Store:
    """Reads and publishes files under a root, on a disk or an object store. Small and picklable."""

    def __init__(self, root: str, *, bundles: bool = False) -> None:
        """`bundles` says whether parts may be in bundles, where they are looked for and put."""
        self.root = root.rstrip("/")
        self.bundles = bundles
        # A worker's copy may write for the first time after the run directory has been moved away.
        self._was_there = not is_remote(self.root) and Path(self.root).is_dir()
        self._begun: dict[str, set[str]] = {}
        self._beside: tuple[str, set[str]] | None = None

    def has(self, part: Part) -> bool:
        """Whether the part has been published, and perhaps compacted since, though not while this store is in use."""
        there = self.exists(part.path) or self.exists(part.compacted)
        return there or self._is_bundled(part) or self._has_begun(part)

    def _is_bundled(self, part: Part) -> bool:
        """Whether a bundle holds it; those that were looked for last are remembered."""
        if not self.bundles or part.table not in BUNDLED:
            return False
        if self._beside is None or self._beside[0] != part.bundles:
            self._beside = part.bundles, self._bundles_beside(part)
        return not self._beside[1].isdisjoint(part.bundled)

    def _bundles_beside(self, part: Part) -> set[str]:
        """The bundles of a part's chunk that may hold it."""
        folder, _, begin = part.bundles.rpartition("/")
        names: Iterable[str] = ()
        if is_remote(self.root):
            names = remote().paths_below(self._at(folder), begin)
        else:
            with suppress(FileNotFoundError):
                names = os.listdir(self._at(folder))  # noqa: PTH208 - thousands of names, perhaps
        found = {f"{folder}/{name}" for name in names if name.startswith(begin)}
        self._learn(found)
        return {path for path in found if (file := table_file(path)) and file.is_bundle}

    def _learn(self, paths: Iterable[str]) -> None:
        """Reads what bundles hold, of each kind of them once."""
        for path in filter(is_unknown_bundle, paths):
            with suppress(*_NO_FOOTER), self.open(path) as file:
                learn(path, json.loads(pq.read_metadata(file).metadata[_HELD])["keys"])

    def _has_begun(self, part: Part) -> bool:
        """Whether an earlier version left it in a file of a group's first chunks, on disks; folders are listed once."""
        if is_remote(self.root):
            return False
        if part.folder not in self._begun:
            with suppress(FileNotFoundError):
                names = os.listdir(self._at(part.folder))  # noqa: PTH208 - a hundred thousand names, perhaps
                self._begun[part.folder] = {f"{part.folder}/{name}" for name in names if name.startswith("chunks-")}
        return not self._begun.get(part.folder, set()).isdisjoint(part.begun)

    def read(self, part: Part) -> pa.Table:
        """The rows of a part; partition columns are not among them.

        Raises:
            OSError: it is missing, or damaged; the message names it. Only canvases can be read once they are compacted.
        """
        try:
            return self.rows(part.path)
        except FileNotFoundError:
            if part.table != "canvases" or not self.exists(part.compacted):
                raise
            return self._read_gathered(part)

    def rows_with(self, part: Part, columns: Sequence[str]) -> pa.Table:
        """Some columns of a part, or of the whole compacted file that holds it; raises OSError like `read`."""
        if self.bundles and part.table in BUNDLED:
            self._bundles_beside(part)  # of which `places` knows from now on
        path = next(filter(self.exists, part.places), part.path)
        return self.by_keys(path, columns)[part.keys]

    def rows(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of a part, a compacted file or a bundle, or some of their columns; raises OSError like `read`."""
        rows, _ = self._rows_and_notes(path, columns)
        return rows

    def by_keys(self, path: str, columns: Sequence[str] | None = None) -> dict[Keys, pa.Table]:
        """The rows of a table's file by the values of the partition columns; raises OSError like `read`."""
        rows, spans = self.spans(path, columns)
        return {keys: rows.slice(span.start, len(span)) for keys, span in spans.items()}

    def spans(self, path: str, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[Keys, range]]:
        """All rows of a table's file, and those with the same values of the partition columns; raises like `read`."""
        rows, notes = self._rows_and_notes(path, columns)
        file = table_file(path)
        if file is None or not file.is_bundle:
            return rows, dict.fromkeys(file.keys if file else (), range(len(rows)))
        counts = json.loads(notes[_HELD])["rows"]
        if len(counts) != len(file.keys) or sum(counts) != len(rows):
            raise self._damaged(path)
        return rows, dict(zip(file.keys, starmap(range, pairwise(accumulate(counts, initial=0))), strict=True))

    def _rows_and_notes(self, path: str, columns: Sequence[str] | None) -> tuple[pa.Table, Mapping[bytes, bytes]]:
        content = self.read_bytes(path)
        with suppress(pa.ArrowException):
            if is_whole(content):
                schema = TABLES[path.partition("/")[0]].columns
                rows = pq.read_table(pa.BufferReader(content), columns=columns, schema=schema)
                return rows, pq.read_metadata(pa.BufferReader(content)).metadata
        raise self._damaged(path)

    def _read_gathered(self, part: Part) -> pa.Table:
        """Its own row group only: the whole file is many times as large."""
        with self.open(part.compacted) as file:
            try:
                groups = pq.ParquetFile(file, page_checksum_verification=True)
                rows = groups.read_row_group(part.chunk % GROUPS[part.table])
                return rows.cast(TABLES[part.table].columns)
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None):  # The filesystem's; Parquet's own have none.
                    raise
                raise self._damaged(part.compacted) from None

    def _damaged(self, path: str) -> OSError:
        # `whole` believes that objects of a store are whole, so `run` would not find this one.
        first = "delete it, and " if is_remote(self.root) else ""
        return OSError(f"{self._at(path)} is damaged; {first}the same command makes it again")

    def publish(self, part: Part, rows: pa.Table) -> int:
        """Writes a part under a temporary name and renames it: seen whole or not at all. Idempotent.

        A part that is there with the same content stays untouched.

        Returns:
            Bytes written.

        Raises:
            OSError: the filesystem refuses, for example because it is full.
        """
        content = sealed(rows)
        if self.exists(part.path) and self.read_bytes(part.path) == content:
            return 0
        self.publish_bytes(part.path, content)
        return len(content)

    def publish_bundle(self, table: str, chunk: int, rows: Mapping[Keys, pa.Table]) -> int:
        """Publishes a chunk's rows with several keys as one file.

        Args:
            rows: by their keys, at least one, that one bundle may hold.

        Returns:
            Bytes written.

        Raises:
            OSError: the filesystem refuses.
        """
        bundle = Bundle(table, chunk, tuple(sorted(rows)))
        stacked = [_with_keys(table, keys, rows[keys]) for keys in bundle.keys]
        held = json.dumps({"keys": bundle.keys, "rows": [len(each) for each in stacked]})
        content = sealed(pa.concat_tables(stacked).combine_chunks(), notes={_HELD.decode(): held})
        self.publish_bytes(bundle.path, content)
        return len(content)

    def bundle(self, parts: Mapping[Part, pa.Table]) -> int:
        """Publishes parts that one bundle may hold, with those of them that are in one now.

        Returns:
            Bytes written.

        Raises:
            OSError: the filesystem refuses, or the bundle that is there is damaged.
        """
        part = next(iter(parts))
        before = self._bundles_beside(part)
        rows = {keys: found for path in sorted(before) for keys, found in self.by_keys(path).items()}
        rows |= {each.keys: found for each, found in parts.items()}
        written = self.publish_bundle(part.table, part.chunk, rows)
        self.delete(before - {Bundle(part.table, part.chunk, tuple(sorted(rows))).path})
        self._beside = None
        return written

    def gather(self, parts: Iterable[Part]) -> None:
        """Makes a bundle of those parts that are there, as `bundle` does."""
        there = {part: self.rows(part.path) for part in parts if self.exists(part.path)}
        if there:
            self.bundle(there)
            self.delete([part.path for part in there])

    def publish_bytes(self, path: str, content: bytes, *, lasting: bool = True) -> None:
        """Publishes any file, the same way; `path` is relative to the root.

        Args:
            lasting: whether it is to outlive a loss of power. It outlives its process in any case, and object stores
                see to the rest themselves.

        Raises:
            OSError: the filesystem refuses, or the root is no longer where it was.
        """
        folder, _, name = self._at(path).rpartition("/")
        # Readers of Parquet folders pass over names that begin with a dot.
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            if is_remote(self.root):
                remote().write(temporary, content)
                remote().rename(temporary, self._at(path))
            else:
                self._make_folder(Path(folder))
                _write(Path(temporary), content, lasting=lasting)
                Path(temporary).replace(self._at(path))
        except BaseException:
            with suppress(Exception):
                self.delete([temporary.removeprefix(f"{self.root}/")])
            raise

    def read_bytes(self, path: str) -> bytes:
        """A file's content; `path` is relative to the root. Raises OSError if there is none."""
        with self.open(path) as file:
            return file.read()

    def open(self, path: str) -> BinaryIO:
        """A file to read from; `path` is relative to the root. Raises OSError if there is none."""
        return open_to_read(self._at(path))

    def exists(self, path: str) -> bool:
        """Whether there is a file; `path` is relative to the root."""
        return exists(self._at(path))

    def paths(self, folder: str = "") -> set[str]:
        """All files under the root, or a folder in it, relative to the root; unfinished ones too.

        A table's folder may be a link, as to a larger disk; other links are not followed.
        """
        below = self._at(folder).rstrip("/")
        if is_remote(self.root):
            found = {f"{folder}/{path}".lstrip("/") for path in remote().paths_below(below)}
        else:
            linked = [] if folder else [each for each in map(self._at, TABLES) if Path(each).is_symlink()]
            walked = chain.from_iterable(os.walk(each, onerror=_unless_it_went) for each in (below, *linked))
            found = {f"{parent}/{name}".removeprefix(f"{self.root}/") for parent, _, names in walked for name in names}
        self._learn(found)
        return found

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
            for path in doomed:
                Path(path).unlink(missing_ok=True)
        elif doomed:
            remote().delete_objects(doomed)

    def _make_folder(self, folder: Path) -> None:
        """Makes a folder under the root, and the root once: what is moved away in mid-run is not begun anew."""
        if not self._was_there:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            self._was_there = True
        if not folder.is_dir():
            if folder == Path(self.root):
                raise FileNotFoundError(errno.ENOENT, "the run directory was moved or removed", self.root)
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"


def _with_keys(table: str, keys: Keys, rows: pa.Table) -> pa.Table:
    """Rows with their partition columns."""
    for name, key in zip(TABLES[table].partitions, keys, strict=True):
        rows = rows.append_column(pa.field(name, pa.string(), nullable=False), pa.repeat(key, len(rows)))
    return rows


def _write(path: Path, content: bytes, *, lasting: bool) -> None:
    with path.open("wb") as file:
        file.write(content)
        if lasting:
            file.flush()
            os.fsync(file.fileno())


def _unless_it_went(error: OSError) -> None:
    """A folder that cannot be listed is said; one that is not there is empty."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error

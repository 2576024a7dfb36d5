"""Compaction: the many small parts of a large run become few files, at its end and while it is at work."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from transforms.data.chunks import Chunk
from transforms.rows.parts import Part, TableFile, begun_path, superseded, table_file
from transforms.storage.seal import sealed
from transforms.storage.store import THREADS, Store

FEW = 16
"""Chunks of which the parts are left as they are."""


def compact(store: Store, files: set[str], chunks: int, title: str, until: int | None = None) -> None:
    """Compacts the parts of each group of chunks into one file, and removes them.

    What is compacted depends on the chunks' numbers alone. Killed in the middle, it leaves files of which readers pass
    over those that are superseded, and the next run goes on.

    Args:
        files: the run's own.
        chunks: how many the run has; the last group may be shorter.
        until: how many of them are done, a multiple of `ROUND`, while the run is at work: of a group of which more are
            to come, those are compacted. None at the end of a run.

    Raises:
        OSError: the filesystem refuses.
    """
    gone = superseded(files)
    store.delete(gone)
    if chunks > FEW:
        due = [each for each in _groups(files - gone, chunks, chunks if until is None else until) if each.is_due]
        for group in tqdm(due, desc=f"{title}: compacting parts", unit="file", delay=1):
            with ThreadPoolExecutor(THREADS) as threads:
                rows = list(threads.map(store.rows, group.paths))
            # Workers read canvases chunk by chunk; of everything else, many small row groups would be slow to query.
            # What was compacted before leaves no trace in the bytes.
            row_groups = rows if group.table == "canvases" else [pa.concat_tables(rows).combine_chunks()]
            store.publish_bytes(group.target, sealed(*row_groups))
            store.delete(group.paths)


def unfilled(files: Iterable[str], before: int, now: int) -> set[str]:
    """Those compacted files that hold the rows of all chunks that there were, and lack those of chunks that came since.

    Args:
        before, now: how many chunks there were, and are.
    """
    found = {path: file.chunks for path in files if (file := table_file(path)) and len(file.chunks) > 1}
    return {path for path, chunks in found.items() if chunks.start < before < min(chunks.stop, now)}


def take_apart(store: Store, groups: Iterable[str], chunks: Sequence[Chunk]) -> None:
    """Makes compacted files parts again, as they were before. Killed in the middle, it leaves what readers pass over.

    Args:
        groups: paths of the compacted files, whole ones.
        chunks: those of which they hold rows, and whatever chunks are before them.

    Raises:
        OSError: the filesystem refuses.
    """
    for path in groups:
        rows, file = store.rows(path), table_file(path)
        if file is not None:
            ids = rows.column("image_id")
            for chunk in chunks[file.chunks.start : file.chunks.stop]:
                own = pc.is_in(ids, pa.array([ref.image_id for ref in chunk.refs], pa.string()))
                store.publish(Part(file.table, chunk.index, file.keys), rows.filter(own))
            store.delete([path])


@dataclass(frozen=True)
class _Group:
    """Files that belong into one, in the order of their chunks.

    Attributes:
        target: where they belong.
        wanted: how many chunks must be in them.
    """

    files: Mapping[str, TableFile]
    target: str
    wanted: int

    @property
    def table(self) -> str:
        return self.target.partition("/")[0]

    @property
    def paths(self) -> list[str]:
        return list(self.files)

    @property
    def is_due(self) -> bool:
        """Whether no chunk is missing, and they are not one file already."""
        return sum(len(file.chunks) for file in self.files.values()) == self.wanted and self.paths != [self.target]


def _groups(paths: Iterable[str], chunks: int, done: int) -> Iterator[_Group]:
    """The files of the chunks that are done, by the file into which they belong."""
    found: defaultdict[str, dict[str, TableFile]] = defaultdict(dict)
    for path in paths:
        file = table_file(path)
        if file is not None and file.chunks.start < done:
            found[Part(file.table, file.chunks.start, file.keys).compacted][path] = file
    for compacted in sorted(found):
        files = dict(sorted(found[compacted].items(), key=lambda each: each[1].chunks.start))
        whole = table_file(compacted)
        if whole is not None and compacted not in files:
            stop = min(whole.chunks.stop, chunks)
            own = range(whole.chunks.start, min(stop, done))
            target = compacted if own.stop == stop else begun_path(compacted.rpartition("/")[0], own)
            yield _Group(files, target, len(own))

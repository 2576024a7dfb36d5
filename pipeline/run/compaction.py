"""Compaction: at the end of a large run its many small parts become few files."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from transforms.data.chunks import Chunk
from transforms.rows.parts import GROUPS, Part, part_of, superseded, table_file
from transforms.storage.seal import sealed
from transforms.storage.store import THREADS, Store

FEW = 16
"""Chunks of which the parts are left as they are."""


def compact(store: Store, files: set[str], chunks: int, title: str) -> None:
    """Compacts the parts of each full group of chunks into one file, and removes them.

    What is compacted depends on the chunks' numbers alone. Killed in the middle, it leaves files of which readers pass
    over those that are superseded, and the next run goes on.

    Args:
        files: the run's own.
        chunks: how many the run has; the last group may be shorter.

    Raises:
        OSError: the filesystem refuses.
    """
    gone = superseded(files)
    store.delete(gone)
    if chunks > FEW:
        groups = [group for group in _groups(files - gone) if len(group) == _size(group[0], chunks)]
        for group in tqdm(groups, desc=f"{title}: compacting parts", unit="file", delay=1):
            with ThreadPoolExecutor(THREADS) as threads:
                rows = list(threads.map(store.read, group))
            # Workers read canvases chunk by chunk; of everything else, many small row groups would be slow to query.
            row_groups = rows if group[0].table == "canvases" else [pa.concat_tables(rows)]
            store.publish_bytes(group[0].compacted, sealed(*row_groups))
            store.delete(part.path for part in group)


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


def _groups(paths: Iterable[str]) -> list[list[Part]]:
    """Parts that belong into one file, in the order of their chunks."""
    found: defaultdict[str, list[Part]] = defaultdict(list)
    for path in paths:
        part = part_of(path)
        if part is not None:
            found[part.compacted].append(part)
    return [sorted(found[name], key=lambda part: part.chunk) for name in sorted(found)]


def _size(part: Part, chunks: int) -> int:
    """How many chunks the group of a part has."""
    most = GROUPS[part.table]
    return min(chunks - part.chunk // most * most, most)

"""Compaction: the many small parts of a large run become few files at its end."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise, starmap

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from transforms.data.chunks import Chunk
from transforms.rows.parts import GROUPS, Keys, Part, TableFile, superseded, table_file
from transforms.storage.seal import sealed
from transforms.storage.store import THREADS, Store

FEW = 16
"""Chunks of which the parts are left as they are."""
_READ_AHEAD = 4
"""Files with canvases that are read at once."""
_MEMORY = 2**28
"""Bytes of rows that are compacted at once, about."""


def compact(store: Store, files: set[str], chunks: int, title: str) -> None:
    """Compacts the parts of each group of chunks into one file, and removes them, and bundles like parts.

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
        for batch in tqdm(_batches(files - gone, chunks), desc=f"{title}: compacting parts", unit=" steps", delay=1):
            batch.compact(store)


def unfilled(files: Iterable[str], before: int, now: int) -> set[str]:
    """Those compacted files that hold the rows of all chunks that there were, and lack those of chunks that came since.

    Args:
        before, now: how many chunks there were, and are.
    """
    found = {path: file.chunks for path in files if (file := table_file(path)) and len(file.chunks) > 1}
    return {path for path, chunks in found.items() if chunks.start < before < min(chunks.stop, now)}


def take_apart(store: Store, groups: Iterable[str], chunks: Sequence[Chunk]) -> None:
    """Makes parts of compacted files and bundles. Killed in the middle, it leaves what readers pass over.

    Args:
        groups: paths of these files, whole ones.
        chunks: those of which they hold rows, and whatever chunks are before them.

    Raises:
        OSError: the filesystem refuses.
    """
    for path in groups:
        file = table_file(path)
        if file is not None:
            for keys, rows in store.by_keys(path).items():
                for chunk in chunks[file.chunks.start : file.chunks.stop]:
                    ids = pa.array([ref.image_id for ref in chunk.refs], pa.string())
                    store.publish(Part(file.table, chunk.index, keys), rows.filter(pc.is_in(rows["image_id"], ids)))
            store.delete([path])


@dataclass(frozen=True)
class _Group:
    """Files with all rows that belong into one, in the order of their chunks.

    Attributes:
        target: where they belong.
        keys: with which they stand there.
    """

    files: Mapping[str, TableFile]
    target: str
    keys: Keys


@dataclass(frozen=True)
class _Batch:
    """What is compacted together, as bundles hold rows of several groups.

    Attributes:
        groups: of one table.
        bundles: with rows of any of them; none if there is but one group, of other files.
    """

    groups: Sequence[_Group]
    bundles: Mapping[str, TableFile]

    def compact(self, store: Store) -> None:
        """Publishes the groups, then what is left of the bundles, and then removes whatever was in them."""
        at_once = self._at_once(store)
        for start in range(0, len(self.groups), at_once):
            some = self.groups[start : start + at_once]
            # No bundle holds canvases, so a group of them is alone.
            files = _canvases(store, *some) if some[0].target.startswith("canvases/") else _rows(store, some)
            for target, content in files:
                store.publish_bytes(target, content)
        done = {group.keys for group in self.groups}
        sources = {path for group in self.groups for path in group.files}
        for path, file in self.bundles.items():
            if path in sources and not done.issuperset(file.keys):
                rest = {keys: rows for keys, rows in store.by_keys(path).items() if keys not in done}
                store.publish_bundle(file.table, file.chunks.start, rest)
        store.delete(sources)

    def _at_once(self, store: Store) -> int:
        """How many groups are made at once, so that their rows fit into memory."""
        if not self.bundles:
            return len(self.groups)
        path, file = next(iter(self.bundles.items()))
        of_keys = store.rows(path).nbytes / len(file.keys)
        return max(1, int(_MEMORY / (1 + of_keys * len(self.bundles))))


def _rows(store: Store, groups: Sequence[_Group]) -> Iterator[tuple[str, bytes]]:
    """The file of each group, whose rows are in memory together."""
    keys = [group.keys for group in groups]
    paths = list(dict.fromkeys(path for group in groups for path in group.files))
    with ThreadPoolExecutor(THREADS) as threads:
        read = dict(zip(paths, threads.map(partial(_some_rows, store, keys), paths), strict=True))
    for group in groups:
        found = [
            rows.slice(spans[group.keys].start, len(spans[group.keys]))
            for rows, spans in (read[path] for path in group.files)
        ]
        # What was compacted or bundled before leaves no trace in the bytes.
        yield group.target, sealed(pa.concat_tables(found).combine_chunks())


def _canvases(store: Store, group: _Group) -> Iterator[tuple[str, bytes]]:
    """The file of a group of canvases, a few chunks of which are in memory besides.

    Workers read them chunk by chunk. Of everything else, many small row groups would be slow to query.
    """

    def row_groups() -> Iterator[pa.Table]:
        paths = list(group.files)
        with ThreadPoolExecutor(_READ_AHEAD) as threads:
            for start in range(0, len(paths), _READ_AHEAD):
                for rows in threads.map(store.by_keys, paths[start : start + _READ_AHEAD]):
                    yield rows[group.keys]

    found = row_groups()
    yield group.target, sealed(next(found), found)


def _some_rows(store: Store, some: Sequence[Keys], path: str) -> tuple[pa.Table, dict[Keys, range]]:
    """Rows of a file with some keys, and which they are; no others stay in memory."""
    rows, spans = store.spans(path)
    wanted = [keys for keys in some if keys in spans]
    if len(wanted) == len(spans):
        return rows, spans
    ends = accumulate((len(spans[keys]) for keys in wanted), initial=0)
    numbers = pa.array([number for keys in wanted for number in spans[keys]], pa.int64())
    return rows.take(numbers), dict(zip(wanted, starmap(range, pairwise(ends)), strict=True))


def _batches(paths: Iterable[str], chunks: int) -> Iterator[_Batch]:
    """The files of a run, by what is compacted together."""
    singles: defaultdict[str, dict[str, TableFile]] = defaultdict(dict)
    bundles: defaultdict[tuple[str, int], dict[str, TableFile]] = defaultdict(dict)
    for path in sorted(paths):
        if (file := table_file(path)) and file.is_bundle:
            bundles[path.rpartition("/")[0], file.chunks.start // GROUPS[file.table]][path] = file
        elif file:
            singles[Part(file.table, file.chunks.start, file.keys[0]).compacted][path] = file
    for _, some in sorted(bundles.items()):
        found: defaultdict[str, dict[str, TableFile]] = defaultdict(dict)
        for path, file in some.items():
            for part in file.parts:
                found[part.compacted][path] = file
        groups = [_group(target, {**singles.pop(target, {}), **files}, chunks) for target, files in found.items()]
        if due := list(filter(None, groups)):
            yield _Batch(due, some)
    for target, files in singles.items():
        if group := _group(target, files, chunks):
            yield _Batch([group], {})


def _group(target: str, files: Mapping[str, TableFile], chunks: int) -> _Group | None:
    """The files that belong into one; None where a chunk is missing, or they are one already."""
    whole = table_file(target)
    if whole is None or target in files:
        return None
    ordered = dict(sorted(files.items(), key=lambda each: each[1].chunks.start))
    wanted = min(whole.chunks.stop, chunks) - whole.chunks.start
    is_due = sum(len(file.chunks) for file in ordered.values()) == wanted
    return _Group(ordered, target, whole.keys[0]) if is_due else None

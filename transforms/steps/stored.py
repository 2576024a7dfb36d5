"""Parts as steps read and publish them, timed and counted."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pyarrow as pa

from transforms.attacks.targets import Target
from transforms.data.pixels import CanvasBatch
from transforms.rows.parts import Part, attacks_part
from transforms.steps.metrics import counted, timed
from transforms.storage.store import Store
from transforms.storage.stored_canvases import CanvasRef, read_canvases

Rows = tuple[Part, pa.Table]
"""A part, and the rows that are to be in it."""


def read(store: Store, canvases: CanvasRef) -> CanvasBatch:
    """The canvases that a reference stands for."""
    with timed("read", 0):
        batch = read_canvases(store, canvases)
    counted("read_count", len(batch.labels))  # which is known by now: failed images have none
    return batch


def aimed(store: Store, canvases: CanvasRef, target: Target | None, batch: CanvasBatch) -> CanvasBatch:
    """Canvases after an attack, with the class that it wanted of each; where it had no one for all, rows know it."""
    if target is None:
        return batch
    if isinstance(target, int):
        return replace(batch, targets=(target,) * len(batch.labels))
    rows = store.rows_with(attacks_part(canvases.chunk.index, canvases.attack), ["image_id", "target"])
    wanted = dict(zip(rows["image_id"].to_pylist(), rows["target"].to_pylist(), strict=True))
    return replace(batch, targets=tuple(wanted[each] for each in batch.image_ids))


def publish(store: Store, parts: Iterable[Rows]) -> None:
    """Publishes parts in their order; one that is there with the same content stays untouched."""
    for part, rows in parts:
        with timed("write", 1):
            written = store.publish(part, rows)
        counted("bytes_written", written)


def bundle(store: Store, parts: Mapping[Part, pa.Table]) -> None:
    """Publishes parts of a chunk and table in one file, as `Store.bundle` does."""
    with timed("write", 1):
        written = store.bundle(parts)
    counted("bytes_written", written)

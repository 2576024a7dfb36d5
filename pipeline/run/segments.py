"""Segments: the images of a run directory in the order in which they came to it.

A run grows when the same command means more images. They become a segment of their own, with chunks of their own after
those that are there, so that no file of theirs is touched. `manifest.json` says which images came when.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from pydantic import BaseModel, ValidationError

from pipeline.results.record import Definitions
from transforms.data.chunks import Chunk, ImageRef, make_chunks
from transforms.errors import InputError
from transforms.storage.store import Store

MANIFEST = "manifest.json"


class _Manifest(BaseModel):
    """The ids of the images of each segment, and the SHA-256 of all that."""

    sha256: str
    segments: list[list[str]]


def _digest(ids: list[list[str]]) -> str:
    return sha256(json.dumps(ids).encode()).hexdigest()


def arrange(store: Store, before: Definitions | None, refs: Sequence[ImageRef]) -> list[list[ImageRef]]:
    """An experiment's images by the segment in which they came to a run directory; those that are new are the last one.

    Raises:
        InputError: the run directory has grown, and its manifest is gone or damaged.
    """
    came = {image_id: number for number, ids in enumerate(_known(store, before)) for image_id in ids}
    segments: dict[int, list[ImageRef]] = {number: [] for number in sorted({*came.values()})}
    new: list[ImageRef] = []
    for ref in refs:
        (segments[came[ref.image_id]] if ref.image_id in came else new).append(ref)
    return [each for each in (*segments.values(), new) if each]


def chunks_of(segments: Sequence[Sequence[ImageRef]], size: int) -> tuple[Chunk, ...]:
    """The chunks of each segment, after those of the segments before it."""
    chunks: list[Chunk] = []
    for segment in segments:
        own = make_chunks(segment, size)
        chunks += [replace(chunk, index=len(chunks) + chunk.index) for chunk in own]
    return tuple(chunks)


def write_manifest(store: Store, segments: Sequence[Sequence[ImageRef]]) -> None:
    """Writes down which images came when, unless it is written already."""
    ids = [[ref.image_id for ref in segment] for segment in segments]
    text = json.dumps({"sha256": _digest(ids), "segments": ids}, indent=0).encode()
    if not store.exists(MANIFEST) or store.read_bytes(MANIFEST) != text:
        store.publish_bytes(MANIFEST, text)


def _known(store: Store, before: Definitions | None) -> list[list[str]]:
    """The ids of the images of each segment that the record counts; without the last, where nothing says which those
    are: they are the rest, unless more have come."""
    count = len(before.images.parts) if before else 0
    try:
        written = _Manifest.model_validate_json(store.read_bytes(MANIFEST), strict=True)
        ids = written.segments if written.sha256 == _digest(written.segments) else []
    except (OSError, ValidationError):
        ids = []
    if len(ids) < count - 1:
        raise InputError(f"{store.root}/{MANIFEST}, which says which images came first, is gone or damaged; restore it")
    return ids[:count]

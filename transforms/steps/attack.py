"""Attacking: stored clean canvases become stored adversarial canvases and rows of `attacks`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np

from transforms.attacks.engine import attack_batch
from transforms.attacks.spec import AttackSpec
from transforms.attacks.targets import Column
from transforms.data.chunks import Chunk, ImageRef, Material, Picture, Work
from transforms.data.decode import BadImage, CanvasSpec
from transforms.data.outcomes import Attacked
from transforms.data.pixels import CanvasBatch, Pixels
from transforms.rows.attacks import attack_rows
from transforms.rows.canvases import canvas_table
from transforms.rows.failures import failure_row, not_finite_rows
from transforms.rows.parts import CLEAN, attack_parts
from transforms.rows.tables import rows_table
from transforms.steps.context import StepContext
from transforms.steps.crash_guard import death_rows, guarded
from transforms.steps.metrics import counted, timed
from transforms.steps.process import Step
from transforms.steps.stored import Rows, publish, read
from transforms.storage.images import read_batch, read_picture
from transforms.storage.store import Store
from transforms.storage.stored_canvases import CanvasRef


class AttackImages(beam.PTransform):
    """Work -> a `CanvasRef` for each of the work's attacks, to the chunk's canvases under it, all stored by then.

    Side effect: publishes canvases, rows of `attacks`, and failures. Idempotent: what is stored is not attacked again.
    """

    def __init__(self, context: StepContext, attacks: Sequence[AttackSpec], material: Material) -> None:
        super().__init__()
        self._chunks = AttackChunk(context, attacks, material)

    def expand(self, work: beam.PCollection) -> beam.PCollection:
        return work | "Attack chunk" >> beam.ParDo(self._chunks)


class AttackChunk(Step):
    """The attacks on one chunk, one after the other."""

    def __init__(self, context: StepContext, attacks: Sequence[AttackSpec], material: Material) -> None:
        super().__init__(context)
        self._attacks = tuple(attacks)
        self._material = material
        self._pool_read: CanvasBatch | None = None

    def process(self, work: Work) -> Iterator[CanvasRef]:
        store, clean = self._context.store, CanvasRef(work.chunk, CLEAN)
        if CLEAN in work.attacks:
            yield clean
        batch: CanvasBatch | None = None
        for spec in self._attacks:
            if spec.name in work.attacks:
                if not all(store.has(part) for part in attack_parts(work.chunk.index, spec.name)):
                    batch = batch or read(store, clean)
                    mixed_in = self._pictures() if batch.labels and spec.build().pool != "unused" else None
                    pictures = self._material.pictures.get(spec.name)
                    publish(store, attack_chunk(self._context, spec, work.chunk, batch, mixed_in, pictures))
                yield CanvasRef(work.chunk, spec.name)
        if store.bundles and self._attacks:
            failures, _, attacks = zip(
                *(attack_parts(work.chunk.index, spec.name) for spec in self._attacks), strict=True
            )
            store.gather(failures)
            store.gather(attacks)

    def _pictures(self) -> CanvasBatch:
        """The images of the pool that can be read and do not kill, read once for all chunks."""
        if self._pool_read is None:
            pool = self._material.pool
            ids = [ref.image_id for ref in pool]
            groups = guarded(self._context.store, "pool", ids, partial(_read_some, pool, self._context.canvas))
            self._pool_read = CanvasBatch.joined([read_batch([], self._context.canvas), *(read for _, read in groups)])
        return self._pool_read


def _read_some(pool: Sequence[ImageRef], canvas: CanvasSpec, some: Sequence[int]) -> CanvasBatch:
    return read_batch([pool[number] for number in some], canvas)


def attack_chunk(
    context: StepContext,
    spec: AttackSpec,
    chunk: Chunk,
    batch: CanvasBatch,
    pool: CanvasBatch | None,
    listed: Mapping[str, Picture] | None,
) -> list[Rows]:
    """Attacks a chunk's clean canvases, if any; an image that cannot be attacked costs one row of `failures`.

    Args:
        pool: what the attack may mix in.
        listed: what another tool has made of the images, by their ids; None for an attack that is made here.

    Returns:
        The parts that come of it, in the order of publication.
    """
    failures_at, canvases_at, attacks_at = attack_parts(chunk.index, spec.name)
    batch, failures = _aimed(spec, chunk, batch)
    groups: list[tuple[list[int], Attacked]] = []
    pictures = None
    if listed is not None and batch.labels:
        batch, pictures, unusable = read_pictures(context.store, f"{canvases_at.path} pictures", listed, batch)
        failures += unusable
    if batch.labels:
        # Before the guard: a process that dies of loading a model is not put down to images.
        context.models.surrogates(spec)
        if spec.victim is not None:
            context.models.target(spec.victim)
        work = partial(_attack_some, context, spec, batch, pool, pictures)
        groups = guarded(context.store, attacks_at.path, batch.image_ids, work)
    failures += death_rows(batch.image_ids, [number for kept, _ in groups for number in kept])
    rows, canvases = [], []
    for kept, attacked in groups:
        with timed("rows", len(kept)):
            clean, lpips = batch.take(kept), None
            if context.lpips is not None:
                lpips = context.lpips.distances(clean.pixels, attacked.canvases, context.conditions)
            rows += attack_rows(spec, context.conditions.seed, clean, attacked, lpips)
            canvases += list(attacked.canvases[attacked.finite])
        reason = "a gradient or an answer of the surrogates is not finite"
        failures += not_finite_rows(batch.take(kept).image_ids, attacked.finite, reason)
    counted("attacks_made", len(rows))
    return [
        (failures_at, rows_table("failures", failures)),
        (canvases_at, canvas_table([row["image_id"] for row in rows], canvases)),
        (attacks_at, rows_table("attacks", rows)),
    ]


def _aimed(spec: AttackSpec, chunk: Chunk, batch: CanvasBatch) -> tuple[CanvasBatch, list[dict[str, Any]]]:
    """The images with the targets that the labels CSV gives them, and rows of `failures` for those without one."""
    if not isinstance(spec.target, Column):
        return batch, []
    column = spec.target.name
    given = {ref.image_id: dict(ref.targets)[column] for ref in chunk.refs if not ref.problem}
    known = [number for number, image_id in enumerate(batch.image_ids) if not given[image_id].problem]
    aimed = batch.take(known)
    problems = {each: given[each].problem for each in batch.image_ids if given[each].problem}
    failures = [failure_row(each, "InputError", problem) for each, problem in problems.items()]
    return replace(aimed, targets=tuple(given[each].label for each in aimed.image_ids)), failures


def read_pictures(
    store: Store, unit: str, listed: Mapping[str, Picture], batch: CanvasBatch
) -> tuple[CanvasBatch, Pixels, list[dict[str, Any]]]:
    """Reads what another tool has made of canvases, at least one.

    Args:
        unit: a name for it (see `guarded`).

    Returns:
        The canvases of which there is a usable picture; the pictures, uint8 (N, 3, S, S), likewise; and a row of
        `failures` for each of the others.
    """
    asked = [listed[image_id] for image_id in batch.image_ids]
    groups = guarded(store, unit, batch.image_ids, partial(_read_pictures, asked, batch.pixels.shape[-1]))
    failures = death_rows(batch.image_ids, [number for kept, _ in groups for number in kept])
    found: dict[int, Pixels] = {}
    for kept, read_of_them in groups:
        for number, said in zip(kept, read_of_them, strict=True):
            if isinstance(said, str):
                uri = asked[number].uri or None
                failures.append(failure_row(batch.image_ids[number], BadImage.__name__, said, uri))
            else:
                found[number] = said
    pictures = np.stack([found[number] for number in sorted(found)]) if found else batch.pixels[:0]
    return batch.take(sorted(found)), pictures, failures


def _read_pictures(asked: Sequence[Picture], side: int, some: Sequence[int]) -> list[Pixels | str]:
    """Each picture, or why it cannot be used."""
    found: list[Pixels | str] = []
    for number in some:
        try:
            with timed("read", 1):
                found.append(read_picture(asked[number], side))
        except BadImage as error:
            found.append(str(error))
    return found


def _attack_some(
    context: StepContext,
    spec: AttackSpec,
    batch: CanvasBatch,
    pool: CanvasBatch | None,
    pictures: Pixels | None,
    some: Sequence[int],
) -> Attacked:
    with timed("attack", len(some)):
        given = None if pictures is None else pictures[list(some)]
        victim = None if spec.victim is None else context.models.target(spec.victim)
        surrogates = context.models.surrogates(spec)
        return attack_batch(spec, surrogates, batch.take(some), context.conditions, pool, given, victim)

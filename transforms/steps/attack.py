"""Attacking: stored clean canvases become stored adversarial canvases and rows of `attacks`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import apache_beam as beam

from transforms.attacks.engine import attack_batch
from transforms.attacks.spec import AttackSpec
from transforms.attacks.targets import Column
from transforms.data.chunks import Chunk, ImageRef, Work
from transforms.data.decode import CanvasSpec
from transforms.data.outcomes import Attacked
from transforms.data.pixels import CanvasBatch
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
from transforms.storage.images import read_batch
from transforms.storage.stored_canvases import CanvasRef


class AttackImages(beam.PTransform):
    """Work -> a `CanvasRef` for each of the work's attacks, to the chunk's canvases under it, all stored by then.

    Side effect: publishes canvases, rows of `attacks`, and failures. Idempotent: what is stored is not attacked again.
    """

    def __init__(self, context: StepContext, attacks: Sequence[AttackSpec], pool: Sequence[ImageRef]) -> None:
        """`pool` holds the images that attacks may mix in."""
        super().__init__()
        self._chunks = AttackChunk(context, attacks, pool)

    def expand(self, work: beam.PCollection) -> beam.PCollection:
        return work | "Attack chunk" >> beam.ParDo(self._chunks)


class AttackChunk(Step):
    """The attacks on one chunk, one after the other."""

    def __init__(self, context: StepContext, attacks: Sequence[AttackSpec], pool: Sequence[ImageRef]) -> None:
        super().__init__(context)
        self._attacks = tuple(attacks)
        self._pool = tuple(pool)
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
                    publish(store, attack_chunk(self._context, spec, work.chunk, batch, mixed_in))
                yield CanvasRef(work.chunk, spec.name)

    def _pictures(self) -> CanvasBatch:
        """The images of the pool that can be read and do not kill, read once for all chunks."""
        if self._pool_read is None:
            ids = [ref.image_id for ref in self._pool]
            groups = guarded(self._context.store, "pool", ids, partial(_read_some, self._pool, self._context.canvas))
            self._pool_read = CanvasBatch.joined([read_batch([], self._context.canvas), *(read for _, read in groups)])
        return self._pool_read


def _read_some(pool: Sequence[ImageRef], canvas: CanvasSpec, some: Sequence[int]) -> CanvasBatch:
    return read_batch([pool[number] for number in some], canvas)


def attack_chunk(
    context: StepContext, spec: AttackSpec, chunk: Chunk, batch: CanvasBatch, pool: CanvasBatch | None
) -> list[Rows]:
    """Attacks a chunk's clean canvases, if any; an image that cannot be attacked costs one row of `failures`.

    Args:
        pool: what the attack may mix in.

    Returns:
        The parts that come of it, in the order of publication.
    """
    failures_at, canvases_at, attacks_at = attack_parts(chunk.index, spec.name)
    batch, failures = _aimed(spec, chunk, batch)
    groups: list[tuple[list[int], Attacked]] = []
    if batch.labels:
        for name in spec.surrogates:
            context.models[name]  # Before the guard: a process that dies of loading a model is not put down to images.
        work = partial(_attack_some, context, spec, batch, pool)
        groups = guarded(context.store, attacks_at.path, batch.image_ids, work)
    failures += death_rows(batch.image_ids, [number for kept, _ in groups for number in kept])
    rows, canvases = [], []
    for kept, attacked in groups:
        with timed("rows", len(kept)):
            rows += attack_rows(spec, context.conditions.seed, batch.take(kept), attacked)
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


def _attack_some(
    context: StepContext, spec: AttackSpec, batch: CanvasBatch, pool: CanvasBatch | None, some: Sequence[int]
) -> Attacked:
    classifiers = [context.models[name] for name in spec.surrogates]
    with timed("attack", len(some)):
        return attack_batch(spec, classifiers, batch.take(some), context.conditions, pool)

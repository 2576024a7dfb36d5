"""Attacking: stored clean canvases become stored adversarial canvases and rows of `attacks`."""

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from transforms.attacks.engine import attack_batch
from transforms.attacks.spec import AttackSpec
from transforms.data.chunks import Chunk, ImageRef, Work
from transforms.data.outcomes import Attacked
from transforms.data.pixels import CanvasBatch, Pixels
from transforms.rows.attacks import attack_rows
from transforms.rows.canvases import canvas_table
from transforms.rows.failures import not_finite_rows
from transforms.rows.parts import CLEAN, attack_parts
from transforms.rows.tables import rows_table
from transforms.steps.context import StepContext
from transforms.steps.process import prepare_numerics
from transforms.storage.crash_guard import death_rows, guarded
from transforms.storage.images import read_batch
from transforms.storage.stored_canvases import CanvasRef, read_canvases


class AttackImages(beam.DoFn):
    """Work -> a reference to the chunk's canvases under each of the work's attacks, all stored by then. Idempotent."""

    def __init__(
        self,
        context: StepContext,
        attacks: Sequence[AttackSpec],
        pool: Sequence[ImageRef],
    ) -> None:
        """`pool` holds the images that attacks may mix in."""
        self._context = context
        self._attacks = tuple(attacks)
        self._pool = tuple(pool)
        self._pool_read: CanvasBatch | None = None

    def setup(self) -> None:
        prepare_numerics()

    def process(self, work: Work) -> Iterator[CanvasRef]:
        clean = CanvasRef(work.chunk, CLEAN)
        if CLEAN in work.attacks:
            yield clean
        batch: CanvasBatch | None = None
        for spec in self._attacks:
            if spec.name in work.attacks:
                if not self._done(work.chunk, spec):
                    batch = batch or read_canvases(self._context.store, clean)
                    self._attack(batch, spec, work.chunk)
                yield CanvasRef(work.chunk, spec.name)

    def _pictures(self) -> CanvasBatch | None:
        """Of the pool, read once for all chunks: those that can be, and do not kill."""

        def work(some: Sequence[int]) -> CanvasBatch | None:
            return read_batch([self._pool[each] for each in some], self._context.canvas)

        if self._pool_read is None:
            ids = [ref.image_id for ref in self._pool]
            _, self._pool_read = guarded(self._context.store, "pool", ids, work)
        return self._pool_read

    def _done(self, chunk: Chunk, spec: AttackSpec) -> bool:
        return all(self._context.store.has(part) for part in attack_parts(chunk.index, spec.name))

    def _attack(self, batch: CanvasBatch, spec: AttackSpec, chunk: Chunk) -> None:
        context = self._context
        failures_at, canvases_at, attacks_at = attack_parts(chunk.index, spec.name)
        rows: list[dict[str, Any]] = []
        canvases: list[Pixels] = []
        failures: list[dict[str, Any]] = []
        if batch.labels:
            classifiers = [context.models[name] for name in spec.surrogates]
            pool = None if spec.build().pool == "unused" else self._pictures()

            def work(some: Sequence[int]) -> Attacked:
                return attack_batch(spec, classifiers, batch.take(some), context.conditions, pool)

            kept, attacked = guarded(context.store, attacks_at.path, batch.image_ids, work)
            failures = death_rows(batch.image_ids, kept)
            if attacked is not None:
                rows = attack_rows(spec, context.conditions.seed, batch.take(kept), attacked)
                canvases = list(attacked.canvases[attacked.finite])
                reason = "a gradient or an answer of the surrogates is not finite"
                failures += not_finite_rows(batch.take(kept).image_ids, attacked.finite, reason)
        context.store.publish(failures_at, rows_table("failures", failures))
        context.store.publish(canvases_at, canvas_table([row["image_id"] for row in rows], canvases))
        context.store.publish(attacks_at, rows_table("attacks", rows))

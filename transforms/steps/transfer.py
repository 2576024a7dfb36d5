"""Transfer evaluation: target models look at stored canvases, and each look becomes a row of `predictions`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import apache_beam as beam
import pyarrow as pa

from transforms.attacks.targets import Target
from transforms.data.outcomes import Answered
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import Defense
from transforms.models.answers import Look, ask
from transforms.rows.failures import not_finite_rows
from transforms.rows.parts import Part, predictions_part
from transforms.rows.predictions import prediction_rows
from transforms.rows.tables import rows_table
from transforms.steps.context import StepContext
from transforms.steps.crash_guard import death_rows, guarded
from transforms.steps.fan_out import DefenseTask
from transforms.steps.metrics import counted, timed
from transforms.steps.process import Step
from transforms.steps.stored import Rows, aimed, bundle, publish, read
from transforms.storage.store import Store
from transforms.storage.stored_canvases import CanvasRef

_MOST_AT_ONCE = 1800.0
"""Seconds of work that wait to be published with what follows; more would be lost where a process is killed."""


class Transfer(beam.PTransform):
    """`DefenseTask` -> {part: rows} for every model and view whose rows are not stored yet, to be published at once.

    Rows are of `predictions`, and of `failures` where an image has no answer. No side effect that lasts, so that doing
    it again is harmless.
    """

    def __init__(
        self,
        context: StepContext,
        targets: Sequence[str],
        views: Sequence[str],
        wanted: Mapping[str, Target | None],
        *,
        all_probabilities: bool,
    ) -> None:
        """`wanted` says what class each targeted attack wants, by the attack's name; None for the others."""
        super().__init__()
        looks = tuple((model, view) for model in targets for view in views)
        self._chunks = _PredictChunk(context, looks, wanted, all_probabilities=all_probabilities)

    def expand(self, tasks: beam.PCollection) -> beam.PCollection:
        return tasks | "Predict chunk" >> beam.ParDo(self._chunks)


class _PredictChunk(Step):
    def __init__(
        self,
        context: StepContext,
        looks: Sequence[Look],
        wanted: Mapping[str, Target | None],
        *,
        all_probabilities: bool,
    ) -> None:
        super().__init__(context)
        self._looks = tuple(looks)
        self._wanted = dict(wanted)
        self._all_probabilities = all_probabilities
        self._seen: tuple[CanvasRef, CanvasBatch] | None = None

    def process(self, task: DefenseTask) -> Iterator[dict[Part, pa.Table]]:
        together: dict[Part, pa.Table] = {}
        begun = time.monotonic()
        for defense in task.defenses:
            if missing := self._missing(task.canvases, defense):
                for part, rows in self._predict(task.canvases, defense, self._read(task.canvases), missing):
                    if self._context.store.bundles and part.table == "predictions":
                        together[part] = rows
                    else:
                        yield {part: rows}
            if together and time.monotonic() - begun > _MOST_AT_ONCE:
                yield together
                together, begun = {}, time.monotonic()
        if together:
            yield together

    def _missing(self, canvases: CanvasRef, defense: Defense) -> dict[Look, Part]:
        """What is not stored yet."""
        parts = {
            (model, view): predictions_part(canvases.chunk.index, canvases.attack, model, view, defense.name)
            for model, view in self._looks
        }
        return {look: part for look, part in parts.items() if not self._context.store.has(part)}

    def _read(self, canvases: CanvasRef) -> CanvasBatch:
        """Read once for all defences, whose tasks come one after the other."""
        if self._seen is None or self._seen[0] != canvases:
            store = self._context.store
            self._seen = canvases, aimed(store, canvases, self._wanted.get(canvases.attack), read(store, canvases))
        return self._seen[1]

    def _predict(
        self, canvases: CanvasRef, defense: Defense, batch: CanvasBatch, parts: Mapping[Look, Part]
    ) -> Iterator[Rows]:
        groups = self._ask(canvases, defense, batch, list(parts)) if batch.labels else []
        deaths = death_rows(batch.image_ids, [number for kept, _ in groups for number in kept])
        for look, part in parts.items():
            rows, failures = [], list(deaths)
            for kept, answers in groups:
                seen, answered = batch.take(kept), answers[look]
                with timed("rows", len(kept)):
                    rows += prediction_rows(seen, answered, defense, all_probabilities=self._all_probabilities)
                failures += not_finite_rows(seen.image_ids, answered.finite, "the model's answer is NaN")
            counted("predictions_made", len(rows))
            if failures:
                yield Part("failures", part.chunk, ("predict", *part.keys)), rows_table("failures", failures)
            yield part, rows_table("predictions", rows)

    def _ask(
        self, canvases: CanvasRef, defense: Defense, batch: CanvasBatch, looks: Sequence[Look]
    ) -> list[tuple[list[int], dict[Look, Answered]]]:
        """Images that do not kill, by number, and what models say of them."""
        for model, _ in looks:
            self._context.models.target(model)  # Before the guard, as in attacking.
        unit = f"{canvases.chunk.index} {canvases.attack} {defense.name} {self._looks}"
        work = partial(_ask_some, self._context, defense, batch, looks)
        return guarded(self._context.store, unit, batch.image_ids, work)


def _ask_some(
    context: StepContext, defense: Defense, batch: CanvasBatch, looks: Sequence[Look], some: Sequence[int]
) -> dict[Look, Answered]:
    asked = {(model, view): context.models.target(model) for model, view in looks}
    return ask(asked, defense, batch.take(some), context.conditions, timed)


class WriteParts(beam.PTransform):
    """{part: rows} -> the parts, once they are published in one file. Side effect: publishes it. Idempotent."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def expand(self, parts: beam.PCollection) -> beam.PCollection:
        return parts | "Publish" >> beam.FlatMap(_published, self._store)


def _published(parts: dict[Part, pa.Table], store: Store) -> list[Part]:
    if store.bundles and all(part.table == "predictions" for part in parts):
        bundle(store, parts)
    else:
        publish(store, parts.items())
    return list(parts)

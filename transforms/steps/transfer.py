"""Transfer evaluation: target models look at stored canvases, and each look becomes a row of `predictions`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import pyarrow as pa

from transforms.data.outcomes import Answered
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import Defense
from transforms.models.answers import Look, ask
from transforms.rows.failures import not_finite_rows
from transforms.rows.parts import Part, predictions_part
from transforms.rows.predictions import prediction_rows
from transforms.rows.tables import rows_table
from transforms.steps.context import StepContext
from transforms.steps.fan_out import DefenseTask
from transforms.steps.process import prepare_numerics
from transforms.storage.crash_guard import death_rows, guarded
from transforms.storage.store import Store
from transforms.storage.stored_canvases import read_canvases


class Transfer(beam.DoFn):
    """DefenseTask -> (part, rows) for every model and view whose rows are not there yet."""

    def __init__(
        self,
        context: StepContext,
        targets: Sequence[str],
        views: Sequence[str],
        wanted: Mapping[str, int | None],
        *,
        all_probabilities: bool,
    ) -> None:
        """`wanted` holds the class that each targeted attack wants, by the attack's name; None for the others."""
        self._context = context
        self._looks = tuple((model, view) for model in targets for view in views)
        self._wanted = dict(wanted)
        self._all_probabilities = all_probabilities

    def setup(self) -> None:
        prepare_numerics()

    def process(self, defended: DefenseTask) -> Iterator[tuple[Part, pa.Table]]:
        canvases, defense = defended.canvases, defended.defense
        parts = {
            (model, view): predictions_part(canvases.chunk.index, canvases.attack, model, view, defense.name)
            for model, view in self._looks
        }
        missing = {look: part for look, part in parts.items() if not self._context.store.has(part)}
        if not missing:
            return
        batch = read_canvases(self._context.store, canvases)
        if not batch.labels:
            yield from ((part, rows_table("predictions", [])) for part in missing.values())
            return
        unit = f"{canvases.chunk.index} {canvases.attack} {defense.name} {self._looks}"
        kept, asked = guarded(
            self._context.store,
            unit,
            batch.image_ids,
            lambda some: self._ask(missing, defense, batch.take(some)),
        )
        deaths, looked_at = death_rows(batch.image_ids, kept), batch.take(kept)
        for look, part in missing.items():
            rows, failures = [], deaths
            if asked is not None:
                answered, target = asked[look], self._wanted.get(canvases.attack)
                rows = prediction_rows(looked_at, answered, defense, target, all_probabilities=self._all_probabilities)
                reason = "the model's answer is NaN"
                failures = deaths + not_finite_rows(looked_at.image_ids, answered.finite, reason)
            if failures:
                yield Part("failures", part.chunk, ("predict", *part.keys)), rows_table("failures", failures)
            yield part, rows_table("predictions", rows)

    def _ask(self, looks: Iterable[Look], defense: Defense, batch: CanvasBatch) -> dict[Look, Answered]:
        models = self._context.models
        asked = {(model, view): models.target(model) for model, view in looks}
        return ask(asked, defense, batch, self._context.conditions)


class WriteParts(beam.DoFn):
    """(part, rows) -> the part, once it is published. Idempotent."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def process(self, element: tuple[Part, pa.Table]) -> Iterator[Part]:
        part, rows = element
        self._store.publish(part, rows)
        yield part

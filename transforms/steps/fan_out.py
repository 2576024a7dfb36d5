"""Fanning out: each chunk of stored canvases goes to the models as it is and through defences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam

from transforms.defenses.defense import Defense
from transforms.storage.stored_canvases import CanvasRef


@dataclass(frozen=True, slots=True)
class DefenseTask:
    """A reference: stored canvases, to be looked at through a defence."""

    canvases: CanvasRef
    defense: Defense


class FanOut(beam.PTransform):
    """`CanvasRef` -> a `DefenseTask` for each defence, no defence among them. No side effects."""

    def __init__(self, defenses: Mapping[str, Sequence[Defense]]) -> None:
        """`defenses` holds those behind which each attack's canvases are looked at, by the attack's name."""
        super().__init__()
        self._defenses = dict(defenses)

    def expand(self, canvases: beam.PCollection) -> beam.PCollection:
        return canvases | "One task per defence" >> beam.FlatMap(_tasks, self._defenses)


def _tasks(canvases: CanvasRef, defenses: Mapping[str, Sequence[Defense]]) -> Iterator[DefenseTask]:
    for defense in defenses[canvases.attack]:
        yield DefenseTask(canvases, defense)

"""Fanning out: each chunk of stored canvases goes to the models as it is and through defences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam

from transforms.defenses.defense import Defense
from transforms.storage.stored_canvases import CanvasRef


@dataclass(frozen=True, slots=True)
class DefenseTask:
    """A reference: stored canvases, to be looked at through defences, one after the other."""

    canvases: CanvasRef
    defenses: tuple[Defense, ...]


class FanOut(beam.PTransform):
    """`CanvasRef` -> a `DefenseTask` for each defence, no defence among them, or one for all. No side effects."""

    def __init__(self, defenses: Mapping[str, Sequence[Defense]], *, together: bool) -> None:
        """`defenses` holds those behind which each attack's canvases are looked at, by the attack's name.

        Args:
            together: whether they are one task, whose rows stand in one file.
        """
        super().__init__()
        self._tasks = {
            attack: [tuple(some)] if together else [(each,) for each in some] for attack, some in defenses.items()
        }

    def expand(self, canvases: beam.PCollection) -> beam.PCollection:
        return canvases | "Defence tasks" >> beam.FlatMap(_tasks, self._tasks)


def _tasks(canvases: CanvasRef, tasks: Mapping[str, Sequence[tuple[Defense, ...]]]) -> Iterator[DefenseTask]:
    for defenses in tasks[canvases.attack]:
        yield DefenseTask(canvases, defenses)

"""Fanning out: each chunk of stored canvases goes to the models as it is and through every defence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam

from transforms.canvases import Canvases
from transforms.defenses.grid import NO_DEFENSE, Defense


@dataclass(frozen=True, slots=True)
class Defended:
    """A reference: stored canvases, to be looked at through a defence."""

    canvases: Canvases
    defense: Defense


class FanOut(beam.DoFn):
    """Canvases -> Defended, once without and once with each defence. No side effects."""

    def __init__(self, defenses: Sequence[Defense]) -> None:
        self._defenses = (NO_DEFENSE, *defenses)

    def process(self, canvases: Canvases) -> Iterator[Defended]:
        for defense in self._defenses:
            yield Defended(canvases, defense)

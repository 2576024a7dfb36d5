"""Fanning out: each chunk of stored canvases goes to the models as it is and through defences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam

from transforms.defenses.grid import Defense
from transforms.stored_canvases import Canvases


@dataclass(frozen=True, slots=True)
class Defended:
    """A reference: stored canvases, to be looked at through a defence."""

    canvases: Canvases
    defense: Defense


class FanOut(beam.DoFn):
    """Canvases -> Defended, once for each defence. No side effects."""

    def __init__(self, defenses: Mapping[str, Sequence[Defense]]) -> None:
        """`defenses` holds those behind which each attack's canvases are looked at, by the attack's name."""
        self._defenses = dict(defenses)

    def process(self, canvases: Canvases) -> Iterator[Defended]:
        for defense in self._defenses[canvases.attack]:
            yield Defended(canvases, defense)

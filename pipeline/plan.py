"""The plan: which units of work an experiment needs, and which of them a run directory lacks. Pure functions."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.experiment import Experiment
from transforms.chunks import Chunk
from transforms.defenses.grid import NO_DEFENSE
from transforms.store import CLEAN, Part, attacks_part, canvases_part, images_part, predictions_part

Kind = Literal["load", "attack", "predict"]


@dataclass(frozen=True, slots=True)
class Unit:
    """A step that is made, reused and counted as one.

    Attributes:
        kind: what is done.
        chunk: number of the chunk.
        parts: the files it makes; it is done when all are there.
        forwards, backwards: passes of a network over one window that it takes, about.
    """

    kind: Kind
    chunk: int
    parts: tuple[Part, ...]
    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Plan:
    """What is to be done, and how much there is in all."""

    missing: tuple[Unit, ...]
    total: Counter[Kind]

    @property
    def cost(self) -> dict[str, int]:
        """What the missing units take: their number by kind, and the network passes."""
        counted = Counter(unit.kind for unit in self.missing)
        return {
            **{kind: counted[kind] for kind in get_args(Kind)},
            "forwards": sum(unit.forwards for unit in self.missing),
            "backwards": sum(unit.backwards for unit in self.missing),
        }

    @property
    def chunks(self) -> set[int]:
        """Numbers of the chunks with anything missing."""
        return {unit.chunk for unit in self.missing}


def make_plan(experiment: Experiment, chunks: Sequence[Chunk], present: Collection[str]) -> Plan:
    """Compares what an experiment needs with the paths of the parts that are present and whole."""
    units = [unit for chunk in chunks for unit in units_of(experiment, chunk)]
    missing = tuple(unit for unit in units if any(part.path not in present for part in unit.parts))
    return Plan(missing, Counter(unit.kind for unit in units))


def units_of(experiment: Experiment, chunk: Chunk) -> Iterator[Unit]:
    """All units of one chunk, in the order in which they are done."""
    index = chunk.index
    images = sum(not ref.problem for ref in chunk.refs)
    yield Unit("load", index, (images_part(index), canvases_part(index, CLEAN)))
    for spec in experiment.specs:
        forwards, backwards = spec.build().cost
        passes = images * len(spec.surrogates)
        parts = (canvases_part(index, spec.name), attacks_part(index, spec.name))
        yield Unit("attack", index, parts, forwards * passes, backwards * passes)
    for attack in (CLEAN, *experiment.attacks):
        for defense in (NO_DEFENSE, *experiment.defenses):
            for model in experiment.targets:
                for view in experiment.views:
                    part = predictions_part(index, attack, model, view, defense.name)
                    yield Unit("predict", index, (part,), forwards=images)

"""The plan: which units of work an experiment needs, and which of them a run directory lacks. Pure functions."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from pipeline.experiment import Experiment
from transforms.attack import AttackSpec
from transforms.chunks import Chunk, Work
from transforms.errors import InputError
from transforms.models.views import VIEWS, windows
from transforms.store import CLEAN, Part, attack_parts, canvases_part, load_parts, predictions_part

Kind = Literal["load", "attack", "predict"]


@dataclass(frozen=True, slots=True)
class Unit:
    """A step that is made, reused and counted as one.

    Attributes:
        kind: what is done.
        chunk: number of the chunk.
        attack: its name; `none` for the clean images.
        model: the one that looks; "" where none is asked to.
        parts: the files it makes; it is done when all are there.
        forwards, backwards: passes of a network over one window that it takes, about.
    """

    kind: Kind
    chunk: int
    attack: str
    parts: tuple[Part, ...]
    model: str = ""
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
    def attack_passes(self) -> dict[str, tuple[int, int]]:
        """Forward and backward passes that each attack's missing units take, by its name."""
        passes: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for unit in self.missing:
            if unit.kind == "attack":
                passes[unit.attack][0] += unit.forwards
                passes[unit.attack][1] += unit.backwards
        return {name: (forwards, backwards) for name, (forwards, backwards) in passes.items()}


@dataclass(frozen=True)
class Wave:
    """Units that are done together.

    Attributes:
        units: none of them waits for one of a later wave.
        models: those that have to be in memory.
        targets: those of them that look at canvases.
    """

    units: tuple[Unit, ...]
    models: tuple[str, ...]
    targets: tuple[str, ...]

    def work(self, chunks: Sequence[Chunk]) -> list[Work]:
        """The chunks with anything to do, each with the attacks of which something is missing."""
        attacks: defaultdict[int, set[str]] = defaultdict(set)
        for unit in self.units:
            attacks[unit.chunk].add(unit.attack)
        return [Work(chunk, frozenset(attacks[chunk.index])) for chunk in chunks if chunk.index in attacks]


def make_plan(experiment: Experiment, chunks: Sequence[Chunk], present: Collection[str]) -> Plan:
    """Compares what an experiment needs with the paths of the parts that are present and whole."""
    units = [unit for chunk in chunks for unit in units_of(experiment, chunk)]
    absent = {unit for unit in units if any(part.path not in present for part in unit.parts)}
    if not experiment.keep_canvases:
        absent |= _attacked_again(units, absent, present)
    return Plan(tuple(unit for unit in units if unit in absent), Counter(unit.kind for unit in units))


def make_waves(experiment: Experiment, missing: Sequence[Unit], models_in_memory: int | None) -> list[Wave]:
    """Splits what is missing so that no wave needs more than so many models: first attacks, then targets.

    Raises:
        InputError: an attack needs more of them at once.
    """
    if not missing:
        return []
    models = tuple(experiment.used_models)
    if models_in_memory is None or len(models) <= models_in_memory:
        return [Wave(tuple(missing), models, experiment.targets)]
    surrogates = {spec.name: spec.surrogates for spec in experiment.specs}
    made = [unit for unit in missing if unit.kind != "predict"]
    groups = _grouped(
        {name: surrogates[name] for name in surrogates if any(unit.attack == name for unit in made)}, models_in_memory
    )
    waves = [
        Wave(tuple(unit for unit in made if unit.attack in {CLEAN, *attacks}), needed, ())
        for attacks, needed in groups or [([], ())]
    ]
    wanted = [name for name in experiment.targets if any(unit.model == name for unit in missing)]
    for start in range(0, len(wanted), models_in_memory):
        targets = tuple(wanted[start : start + models_in_memory])
        waves.append(Wave(tuple(unit for unit in missing if unit.model in targets), targets, targets))
    return waves


def _grouped(surrogates: Mapping[str, Sequence[str]], models_in_memory: int) -> list[tuple[list[str], tuple[str, ...]]]:
    """Attacks, each put into the first group that has room for its surrogates, with the models of the group."""
    groups: list[tuple[list[str], tuple[str, ...]]] = []
    for attack, names in surrogates.items():
        if len(names) > models_in_memory:
            raise InputError(
                f"--models-in-memory: attack {attack} needs its {len(names)} surrogates at once, not {models_in_memory}"
            )
        for place, (attacks, held) in enumerate(groups):
            together = tuple(dict.fromkeys([*held, *names]))
            if len(together) <= models_in_memory:
                groups[place] = ([*attacks, attack], together)
                break
        else:
            groups.append(([attack], tuple(names)))
    return groups


def _attacked_again(units: Sequence[Unit], absent: Collection[Unit], present: Collection[str]) -> set[Unit]:
    """The attacks whose canvases were not kept, and which something new is to look at."""
    wanted = {(unit.chunk, unit.attack) for unit in absent if unit.kind == "predict"}
    return {
        unit
        for unit in units
        if unit.kind == "attack"
        and (unit.chunk, unit.attack) in wanted
        and canvases_part(unit.chunk, unit.attack).path not in present
    }


@cache
def _cost(spec: AttackSpec) -> tuple[int, int]:
    return spec.build().cost(len(spec.surrogates))


def units_of(experiment: Experiment, chunk: Chunk) -> Iterator[Unit]:
    """All units of one chunk, in the order in which they are done."""
    index = chunk.index
    images = sum(not ref.problem for ref in chunk.refs)
    yield Unit("load", index, CLEAN, load_parts(index))
    for spec in experiment.specs:
        forwards, backwards = _cost(spec)
        passes = images * windows(VIEWS[spec.view])
        parts = attack_parts(index, spec.name)
        if not experiment.keep_canvases:
            parts = tuple(part for part in parts if part.table != "canvases")
        yield Unit("attack", index, spec.name, parts, forwards=forwards * passes, backwards=backwards * passes)
    for attack, defenses in experiment.defenses_of.items():
        for defense in defenses:
            for model in experiment.targets:
                for view in experiment.views:
                    part = predictions_part(index, attack, model, view, defense.name)
                    passes = images * defense.repeats * windows(VIEWS[view])
                    yield Unit("predict", index, attack, (part,), model, passes)

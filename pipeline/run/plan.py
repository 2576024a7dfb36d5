"""The plan: which tasks an experiment consists of, and which of them a run directory lacks. Pure functions."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.config.experiment import Experiment
from pipeline.run.shard import WHOLE, Shard
from transforms.data.chunks import Chunk, Work
from transforms.errors import InputError
from transforms.models.views import VIEWS, windows
from transforms.rows.parts import (
    CLEAN,
    Keys,
    Part,
    attack_parts,
    canvases_part,
    load_parts,
    predictions_part,
    table_file,
)

Kind = Literal["load", "attack", "predict"]


@dataclass(frozen=True, slots=True)
class Task:
    """What is made, reused and counted as one: a kind of task, done for one chunk.

    Attributes:
        kind: what is done.
        chunk: number of the chunk.
        attack: its name; `none` for the clean images.
        parts: the files it makes; it is done when all are there.
        model: the one that looks; "" where none is asked to.
        forwards, backwards: passes of a network over one window that it takes, about.
    """

    kind: Kind
    chunk: int
    attack: str
    parts: tuple[Part, ...]
    model: str = ""
    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True, slots=True)
class TaskKind:
    """What is done alike for every chunk.

    Attributes:
        parts: the files it makes of chunk 0.
        model, view, defense: who looks, how, and behind what; "" where nobody is asked to.
        forwards, backwards: passes of a network over one window that an image takes, about.
    """

    kind: Kind
    attack: str
    parts: tuple[Part, ...]
    model: str = ""
    view: str = ""
    defense: str = ""
    forwards: int = 0
    backwards: int = 0

    def task(self, chunk: int, images: int) -> Task:
        """The task for a chunk of so many images."""
        parts = tuple(replace(part, chunk=chunk) for part in self.parts)
        return Task(self.kind, chunk, self.attack, parts, self.model, self.forwards * images, self.backwards * images)


@dataclass(frozen=True, eq=False)
class Tasks:
    """Tasks, iterated chunk by chunk in the order in which they are done.

    Kept as a table of chunks by kinds: a large experiment has millions, and most questions are about whole columns.

    Attributes:
        kinds: K of them.
        images: int (C,), usable images of each chunk.
        chosen: bool (C, K), which tasks are meant.
    """

    kinds: tuple[TaskKind, ...]
    images: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.bool_]

    @classmethod
    def every(cls, experiment: Experiment, chunks: Sequence[Chunk], shard: Shard = WHOLE) -> "Tasks":
        """All that an experiment needs, or a shard's share; the chunks are all of the experiment's, in order."""
        kinds = tuple(task_kinds(experiment))
        images = np.array([sum(not ref.problem for ref in chunk.refs) for chunk in chunks], dtype=np.int64)
        chosen = np.zeros((len(chunks), len(kinds)), dtype=bool)
        chosen[shard.slice] = True
        return cls(kinds, images, chosen)

    def before(self, chunk: int) -> "Tasks":
        """The tasks of the chunks before a number."""
        chosen = self.chosen.copy()
        chosen[chunk:] = False
        return replace(self, chosen=chosen)

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def __iter__(self) -> Iterator[Task]:
        for number in np.flatnonzero(self.chunks).tolist():
            for kind in compress(self.kinds, self.chosen[number].tolist()):
                yield kind.task(number, int(self.images[number]))

    def tally(self) -> Iterator[tuple[TaskKind, int, int]]:
        """Each kind of which there are tasks, with how many there are, and of how many images."""
        counts = self.chosen.sum(axis=0).tolist(), (self.images @ self.chosen).tolist()
        return ((kind, tasks, images) for kind, tasks, images in zip(self.kinds, *counts, strict=True) if tasks)

    def where(self, field: Literal["kind", "attack", "model"], values: Collection[str]) -> "Tasks":
        """The tasks of the kinds in which a field has one of some values."""
        columns = np.array([getattr(kind, field) in values for kind in self.kinds], dtype=bool)
        return replace(self, chosen=self.chosen & columns)

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes of a network over one window that they take, about."""
        passes = [(images * kind.forwards, images * kind.backwards) for kind, _, images in self.tally()]
        return sum(forwards for forwards, _ in passes), sum(backwards for _, backwards in passes)

    @property
    def files(self) -> int:
        """How many files they make."""
        return sum(tasks * len(kind.parts) for kind, tasks, _ in self.tally())

    @property
    def chunks(self) -> npt.NDArray[np.bool_]:
        """Which chunks have any task, bool (C,)."""
        chunks: npt.NDArray[np.bool_] = np.logical_or.reduce(self.chosen, axis=1)
        return chunks

    def absent_from(self, files: Collection[str]) -> "Tasks":
        """The tasks of which some part is in none of these files, given by their paths in the run directory."""
        done, _ = self.parts_in(files)
        return replace(self, chosen=self.chosen & ~done)

    def parts_in(self, files: Collection[str]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """The tasks of which all parts, and those of which any part, are in these files; bool (C, K), chosen or not."""
        held = _chunks_by_folder(files, len(self.images))
        parts = [[held[part.folder] for part in kind.parts] for kind in self.kinds]
        done, begun = ([how(each, axis=0) for each in parts] for how in (np.all, np.any))
        return np.stack(done, axis=1), np.stack(begun, axis=1)


def _chunks_by_folder(files: Collection[str], chunks: int) -> Mapping[str, npt.NDArray[np.bool_]]:
    """The chunks whose rows each folder holds, bool (C,)."""
    held: defaultdict[str, npt.NDArray[np.bool_]] = defaultdict(lambda: np.zeros(chunks, dtype=bool))
    bundled: defaultdict[tuple[str, tuple[Keys, ...]], list[int]] = defaultdict(list)
    for path in files:
        if (file := table_file(path)) and file.is_bundle:
            bundled[file.table, file.keys].append(file.chunks.start)
        elif file:
            held[path.rpartition("/")[0]][file.chunks.start : file.chunks.stop] = True
    for (table, several), numbers in bundled.items():
        of = np.bincount(numbers, minlength=chunks)[:chunks] > 0
        for keys in several:
            held[Part(table, 0, keys).folder] |= of
    return held


@dataclass(frozen=True)
class Plan:
    """What is to be done, and how much there is in all."""

    missing: Tasks
    total: Counter[Kind]

    @property
    def cost(self) -> dict[str, int]:
        """What the missing tasks take: their number by kind, and the network passes."""
        counted = _by_kind(self.missing)
        forwards, backwards = self.missing.passes
        return {**{kind: counted[kind] for kind in get_args(Kind)}, "forwards": forwards, "backwards": backwards}

    @property
    def attack_passes(self) -> dict[str, tuple[int, int]]:
        """Forward and backward passes that each attack's missing tasks take, by its name."""
        return {
            kind.attack: (images * kind.forwards, images * kind.backwards)
            for kind, _, images in self.missing.tally()
            if kind.kind == "attack"
        }


def _by_kind(tasks: Tasks) -> Counter[Kind]:
    counted: Counter[Kind] = Counter()
    for kind, count, _ in tasks.tally():
        counted[kind.kind] += count
    return counted


@dataclass(frozen=True)
class Wave:
    """Tasks that are done together.

    Attributes:
        tasks: none of them waits for one of a later wave.
        models: those that have to be in memory.
        targets: those of them that look at canvases.
    """

    tasks: Tasks
    models: tuple[str, ...]
    targets: tuple[str, ...]

    def work(self, chunks: Sequence[Chunk]) -> list[Work]:
        """The chunks with anything to do, each with the attacks of which something is missing."""
        attacked = {kind.attack for kind, *_ in self.tasks.tally()}
        missing = {attack: self.tasks.where("attack", [attack]).chunks for attack in attacked}
        work = [Work(chunk, frozenset(each for each in missing if missing[each][chunk.index])) for chunk in chunks]
        return [each for each in work if each.attacks]


def make_plan(experiment: Experiment, chunks: Sequence[Chunk], files: Collection[str], shard: Shard = WHOLE) -> Plan:
    """Compares what an experiment, or a shard's share of it, needs with the files that are present and whole."""
    every = Tasks.every(experiment, chunks, shard)
    missing = every.absent_from(files)
    if not experiment.keep_canvases:
        missing = _with_attacks_again(missing, files)
    return Plan(missing, _by_kind(every))


def make_waves(experiment: Experiment, missing: Tasks, models_in_memory: int | None) -> list[Wave]:
    """Splits what is missing so that no wave needs more than so many models: first attacks, then targets.

    Raises:
        InputError: an attack needs more of them at once.
    """
    if not missing:
        return []
    models = tuple(experiment.used_models)
    if models_in_memory is None or len(models) <= models_in_memory:
        return [Wave(missing, models, experiment.targets)]
    made = missing.where("kind", ["load", "attack"])
    attacked = {kind.attack for kind, *_ in made.tally()}
    needed_by = {spec.name: spec.models for spec in experiment.specs if spec.name in attacked}
    groups = _grouped(needed_by, models_in_memory) or [([], ())]
    loads, labeller = made.where("kind", ["load"]), experiment.images.labeller
    waves = [Wave(loads, (labeller,), ())] if labeller and loads else []
    waves += [Wave(made.where("attack", [CLEAN, *attacks]), needed, ()) for attacks, needed in groups]
    looking = {kind.model for kind, *_ in missing.tally()}
    wanted = [name for name in experiment.targets if name in looking]
    for start in range(0, len(wanted), models_in_memory):
        targets = tuple(wanted[start : start + models_in_memory])
        waves.append(Wave(missing.where("model", targets), targets, targets))
    return waves


def _grouped(models: Mapping[str, Sequence[str]], models_in_memory: int) -> list[tuple[list[str], tuple[str, ...]]]:
    """Attacks, each put into the first group that has room for its models, with the models of the group."""
    groups: list[tuple[list[str], tuple[str, ...]]] = []
    for attack, names in models.items():
        if len(names) > models_in_memory:
            raise InputError(
                f"--models-in-memory: attack {attack} needs its {len(names)} models at once, not {models_in_memory}"
            )
        for place, (attacks, held) in enumerate(groups):
            together = tuple(dict.fromkeys([*held, *names]))
            if len(together) <= models_in_memory:
                groups[place] = ([*attacks, attack], together)
                break
        else:
            groups.append(([attack], tuple(names)))
    return groups


def _with_attacks_again(missing: Tasks, files: Collection[str]) -> Tasks:
    """Adds the attacks whose canvases were not kept, and which something new is to look at."""
    held = _chunks_by_folder(files, len(missing.images))
    looked_at = missing.where("kind", ["predict"])
    chosen = missing.chosen.copy()
    for column, kind in enumerate(missing.kinds):
        if kind.kind == "attack":
            kept = held[canvases_part(0, kind.attack).folder]
            chosen[:, column] |= looked_at.where("attack", [kind.attack]).chunks & ~kept
    return replace(missing, chosen=chosen)


def task_kinds(experiment: Experiment) -> Iterator[TaskKind]:
    """All kinds of task of an experiment, in the order in which they are done for a chunk."""
    yield TaskKind("load", CLEAN, load_parts(0), forwards=int(experiment.images.labeller is not None))
    for spec in experiment.specs:
        forwards, backwards = spec.build().cost(len(spec.surrogates))
        passes = windows(VIEWS[spec.view])
        parts = attack_parts(0, spec.name)
        if not experiment.keep_canvases:
            parts = tuple(part for part in parts if part.table != "canvases")
        yield TaskKind("attack", spec.name, parts, forwards=forwards * passes, backwards=backwards * passes)
    for attack, defenses in experiment.defenses_of.items():
        for defense in defenses:
            for model in experiment.targets:
                for view in experiment.views:
                    part = predictions_part(0, attack, model, view, defense.name)
                    passes = defense.repeats * windows(VIEWS[view])
                    yield TaskKind("predict", attack, (part,), model, view, defense.name, passes)

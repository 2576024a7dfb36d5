"""An experiment beside a run directory, before anything is written."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path

from pipeline.config.experiment import Experiment
from pipeline.images.manifest import list_images
from pipeline.results.record import Model, RunRecord, own_files, read_record
from pipeline.run.again import Held, without
from pipeline.run.compaction import unfilled
from pipeline.run.definitions import conditions, definitions, merge_definitions, versions
from pipeline.run.lock import WATCH, is_lock
from pipeline.run.pictures import list_pictures
from pipeline.run.plan import Plan, Tasks, make_plan
from pipeline.run.segments import arrange, chunks_of
from pipeline.run.shard import WHOLE, Shard
from transforms.attacks.recipes.names import recipe
from transforms.attacks.targets import Column
from transforms.attacks.units import Unit
from transforms.data.chunks import Chunk, ImageRef, Material, one_of_each_class
from transforms.data.pixels import WHITE
from transforms.errors import InputError
from transforms.models.conditions import Conditions
from transforms.models.lpips import BACKBONES, Lpips
from transforms.models.pin import ModelPin, pin
from transforms.rows.parts import Part, is_unknown_bundle, superseded, table_file
from transforms.storage.files import absolute, is_remote
from transforms.storage.preflight import reach
from transforms.storage.store import Store, is_temporary

_NEARLY = 0.995
"""Warn only if rounding a budget to whole grey levels loses more than half a percent, as 0.0314 for 8/255 does not,
and 8/225 does."""
_HALF = 128
"""Levels beyond which hardly anything of a picture is left."""
_HARDLY = 0.25
"""Degrees or pixels that are hardly a budget, but 4/255 might be meant, or a share of the canvas."""
_OF_LINF = 16
"""Levels that are a usual budget in L∞, and hardly one in any other norm."""


@dataclass(frozen=True)
class Prepared:
    """An experiment beside a run directory, before anything is written.

    Attributes:
        store: the run directory.
        shard: the share of the chunks that is meant.
        segments: its images, in the order in which they came to the run directory.
        chunks: all of the experiment's.
        material: what attacks take besides canvases and models. The pool has images of different classes, those that
            came first, so that it stays the same.
        pins: the models that it uses, with their weights found.
        lpips: what measures perceptual distances, likewise; None where the experiment asks for none.
        before: the record in the run directory; None where there is none.
        record: the one that is going to be there. Engines of new models, and the micro-batch of a new run, are resolved
            when it is executed, on its device.
        plan: what is missing.
        damaged: paths of parts that are there, but not whole.
        doubled: paths of files whose rows others hold, as where a run was killed while it compacted.
        bundled: whether any parts are there in bundles.
        again: parts that are there, and removed before the run in this order, to be made again.
        apart: paths of compacted files that are taken apart for it.
        warnings: what the user should know before going on, one line each.
    """

    experiment: Experiment
    store: Store
    shard: Shard
    segments: list[list[ImageRef]]
    chunks: tuple[Chunk, ...]
    material: Material
    pins: dict[str, ModelPin]
    lpips: Lpips | None
    before: RunRecord | None
    record: RunRecord
    plan: Plan
    damaged: tuple[str, ...]
    doubled: tuple[str, ...]
    bundled: bool
    again: tuple[Part, ...]
    apart: tuple[str, ...]
    warnings: tuple[str, ...]

    def conditions(self, device: str) -> Conditions:
        """Under which models are asked, on a device: auto, cpu or cuda; raises InputError if it is not there."""
        return conditions(self.record.definitions, device)

    @property
    def chunks_before(self) -> tuple[Chunk, ...]:
        """The chunks that there were in the run directory."""
        return self.chunks[: self.before.definitions.chunks] if self.before else ()

    @property
    def paths(self) -> Iterator[str]:
        """What workers must be able to see: the run directory, images, pictures, and weights that are named."""
        yield self.store.root
        yield from (ref.uri for chunk in self.chunks for ref in chunk.refs if not ref.problem)
        yield from (each.uri for some in self.material.pictures.values() for each in some.values() if not each.problem)
        backbones = [] if self.lpips is None else [self.lpips.backbone]
        yield from (each.weights for each in (*self.pins.values(), *backbones) if each.weights)


def prepare(experiment: Experiment, output: str, retry: Collection[str] = (), shard: Shard = WHOLE) -> Prepared:
    """Lists images, finds weights, and compares the experiment with what the run directory holds.

    Writes nothing there; weights that are missing are downloaded to their library's cache.

    Args:
        retry: stages of which failures are tried again: load, attack, predict, or all.
        shard: the share of the chunks that is meant.

    Raises:
        InputError: something the experiment names is missing, or contradicts the run directory, or a shard would have
            to change files that hold rows of others.
    """
    if not output:
        raise InputError("--output: give the path of a run directory")
    store = Store(absolute(output))
    reach("--output", store.root)
    if Path(store.root).is_file():
        raise InputError(f"--output: {store.root} is a file; give the path of a run directory")
    files = store.paths()
    before = read_record(store)
    if before is None and not all(is_lock(path) or is_temporary(path) for path in files):
        raise InputError(f"--output: {store.root} holds files but no run.json, so it is not a run directory of ours")
    refs, notes = list_images(experiment.images, experiment.seed, experiment.target_columns)
    segments = arrange(store, before.definitions if before else None, refs)
    chunks, pool = chunks_of(segments, experiment.chunk_size), one_of_each_class(segments[0], experiment.seed)
    for spec in experiment.specs:
        if spec.mixes and len(pool) < 2:  # noqa: PLR2004 - another class than an image's own
            few = "there is one class only" if experiment.images.labeller is None else "none is known without labels"
            raise InputError(f"attacks.{spec.name}: {spec.recipe} mixes in other classes, and {few}")
    pins = _pins(experiment, before.definitions.models if before else {})
    pictures = list_pictures(experiment, refs)
    asked = experiment.lpips
    lpips = None if asked is None else Lpips(asked.net, pin(BACKBONES[asked.net], asked.weights))
    new = definitions(experiment, segments, pins, lpips, {name: each.digest for name, each in pictures.items()})
    record = RunRecord(
        experiment=experiment.model_dump(mode="json"),
        definitions=merge_definitions(store.root, before.definitions, new) if before else new,
        versions=versions(),
        proofs=before.proofs if before else {},
        published={**(before.published if before else {}), **_published(pins, "published")},
        published_robust={**(before.published_robust if before else {}), **_published(pins, "published_robust")},
        costs=before.costs if before else (),
    )
    warnings = (
        *notes,
        *_unusable(refs),
        *_labelled(experiment),
        *(note for each in pictures.values() for note in each.notes),
        *_unaimed(experiment, refs),
        *_strange_budgets(experiment),
    )
    if before:
        warnings += (*_growth(before, record), *_other_last_bits(before, record))
    if is_remote(store.root) and any(map(is_lock, files)):
        warnings += (f"a run may be at work in {store.root}; a new one first watches it for {WATCH:.0f} seconds",)
    parts = {path for path in own_files(record.definitions, files) if shard.may_read(path)}
    damaged = parts - store.whole(parts)
    damaged |= parts & set().union(*map(_unexplained_without, damaged))
    parts -= damaged
    if shard.is_whole:
        unknown = set(filter(is_unknown_bundle, files))
        damaged |= unknown - store.whole(unknown)
    doubled = superseded(parts)
    parts -= doubled
    chunks_before = before.definitions.chunks if before else len(chunks)
    tasks = Tasks.every(experiment, chunks, shard).before(chunks_before)
    again = Held(store, tasks, chunks, experiment.canvas.spec, parts).again(retry)
    kept, apart = without(parts, again, chunks_before, unfilled(parts, chunks_before, len(chunks)))
    shared = [path for path in (*apart, *damaged) if _is_of_several_chunks(path)]
    if shared and not shard.is_whole:
        raise InputError(
            f"--shard: {min(shared)} holds rows of other shards and must be made again; run without it once"
        )
    return Prepared(
        experiment,
        store,
        shard,
        segments,
        chunks,
        Material(pool, {name: each.pictures for name, each in pictures.items()}),
        pins,
        lpips,
        before,
        record,
        plan=make_plan(experiment, chunks, kept, shard),
        damaged=tuple(sorted(damaged)),
        doubled=tuple(sorted(filterfalse(_is_of_several_chunks, doubled) if not shard.is_whole else doubled)),
        bundled=any(file.is_bundle for file in map(table_file, kept) if file),
        again=again,
        apart=tuple(sorted(apart)),
        warnings=warnings,
    )


def _is_of_several_chunks(path: str) -> bool:
    file = table_file(path)
    return file is None or len(file.chunks) > 1


def _unexplained_without(path: str) -> set[str]:
    """Files of predictions that lack rows for which a file of failures gives the reason: both are made again."""
    file = table_file(path)
    if file is None or file.table != "failures":
        return set()
    unexplained = (Part("predictions", part.chunk, part.keys[1:]) for part in file.parts if part.keys[0] == "predict")
    return {place for part in unexplained for place in part.places}


def _published(pins: Mapping[str, ModelPin], what: str) -> dict[str, float]:
    """What is published of each model of which it is known; by the attribute of a pin."""
    return {name: getattr(pinned, what) for name, pinned in pins.items() if getattr(pinned, what) is not None}


def _pins(experiment: Experiment, before: Mapping[str, Model]) -> dict[str, ModelPin]:
    """The models, with their weights found. Where the experiment leaves an engine open, it stays the recorded one."""
    pins = {}
    for name, config in experiment.used_models.items():
        usual = "torch" if config.engine == "torch" else "auto"
        recorded = (before[name].engine, before[name].gradients) if name in before else ("auto", usual)
        named = (config.engine, config.gradients)
        engines = (there if given == "auto" else given for given, there in zip(named, recorded, strict=True))
        pins[name] = pin(config.source, config.weights, config.preprocessing, *engines)
    return pins


def _unusable(refs: Sequence[ImageRef]) -> Iterator[str]:
    problems = [f"{ref.image_id}: {ref.problem}" for ref in refs if ref.problem]
    if problems:
        yield f"{len(problems)} of {len(refs)} images cannot be used, each a row of failures; {problems[0]}"


def _labelled(experiment: Experiment) -> Iterator[str]:
    labeller = experiment.images.labeller
    if labeller is not None:
        yield f"images.labels: they are what {labeller} says; accuracy is agreement with it, and is not checked before"


def _unaimed(experiment: Experiment, refs: Sequence[ImageRef]) -> Iterator[str]:
    """Attacks that have no target for some images, or one that is their label."""
    usable = [ref for ref in refs if not ref.problem]
    for spec in experiment.specs:
        if spec.target is None or spec.variant_of is not None:
            continue
        of = f"attacks.{spec.name}.target: "
        if isinstance(spec.target, Column):
            column = spec.target.name
            truths = [dict(ref.targets)[column] for ref in usable]
            lacking = [(ref, truth) for ref, truth in zip(usable, truths, strict=True) if truth.problem]
            if lacking:
                ref, truth = lacking[0]
                said = f"{len(lacking)} of {len(usable)} images have none, each a row of failures"
                yield f"{of}{said}; {ref.image_id}: {truth.problem}"
            own = sum(ref.label == truth.label for ref, truth in zip(usable, truths, strict=True) if not truth.problem)
        else:
            own = sum(ref.label == spec.target for ref in usable)
        if own:
            yield f"{of}the label of {own} of {len(usable)} images, which do not count in its success"


def _strange_budgets(experiment: Experiment) -> Iterator[str]:
    """Budgets of which 8 bits use a part only, and those in another norm, or in none, that look like one in L∞."""
    for name, attack in experiment.attacks.items():
        made, given = recipe(attack.recipe), dict(attack.parameters)
        for key, unit in made.marked(Unit).items():
            if key in made.bounds and 0 < given[key] < _HARDLY:
                yield f"attacks.{name}.{key}: {given[key]} {unit.value} move hardly anything"
        if attack.eps is None:
            continue
        levels = attack.eps * WHITE
        if attack.norm == "linf" and math.floor(levels) < _NEARLY * levels:
            used = f"{float(levels):.2f} grey levels, of which 8-bit pictures use {math.floor(levels)}"
            yield f"attacks.{name}.eps: {attack.eps} is {used}"
        if attack.norm == "linf" and levels >= _HALF:
            yield f"attacks.{name}.eps: {attack.eps} is {float(levels):.0f} of 255 grey levels; 8/255 is usual"
        if attack.norm != "linf" and levels <= _OF_LINF:
            values = math.floor(levels**2 if attack.norm == "l2" else levels)
            least = f"changes {values} values of a picture by one level at most"
            yield f"attacks.{name}.eps: {attack.eps} in {attack.norm} {least}"


def _growth(before: RunRecord, now: RunRecord) -> Iterator[str]:
    there, all_of_them = before.definitions.images.count, now.definitions.images.count
    if all_of_them > there:
        yield f"the run directory has {there} images; {all_of_them - there} more come to it"


def _other_last_bits(before: RunRecord, now: RunRecord) -> Iterator[str]:
    """What lets new rows differ from old ones in their last bits."""
    then, today = before.versions, now.versions
    others = [name for name in today if then.get(name, today[name]) != today[name]]
    changed = [f"{name} {then[name]}, now {today[name]}" for name in others]
    sizes = before.definitions.micro_batch, now.definitions.micro_batch
    if 0 not in sizes and sizes[0] != sizes[1]:
        changed.append(f"micro_batch {sizes[0]}, now {sizes[1]}")
    if changed:
        said = "; ".join(changed)
        yield f"this run directory was made with {said}: new rows may differ from old ones in the last bits"

"""A run from beginning to end: models are checked on clean images, the pipeline does the rest."""

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.config.experiment import Experiment
from pipeline.results.record import RUN_JSON, Json, RunRecord, own_files, read_record, write_record
from pipeline.run.clean_accuracy import CleanAccuracy, check_clean_accuracy
from pipeline.run.compaction import FEW, compact, take_apart
from pipeline.run.definitions import merge_definitions, versions
from pipeline.run.graph import build
from pipeline.run.lock import is_shard_lock, lock, lock_in_turn, shards_at_work
from pipeline.run.micro_batch import quickest, seconds_of_a_gradient
from pipeline.run.plan import Tasks, Wave, make_plan, make_waves
from pipeline.run.prepare import Prepared
from pipeline.run.progress import progress_bar
from pipeline.run.runners import run_to_end
from pipeline.run.segments import write_manifest
from pipeline.run.shard import Shard
from transforms.attacks.engine import as_followed
from transforms.errors import InputError, StoppedError, out_of_memory
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions, equal_parts
from transforms.models.device import Numerics, is_emulated, torch_device
from transforms.models.pin import ModelPin
from transforms.rows.parts import canvases_part
from transforms.steps.context import StepContext
from transforms.steps.crash_guard import notes
from transforms.steps.held_models import HeldModels
from transforms.steps.metrics import recorded
from transforms.steps.process import prepare_numerics
from transforms.storage.store import Store, is_temporary

MOST_FILES = 50_000
"""That a run may make one by one; one that would make more bundles them."""


@dataclass(frozen=True)
class Outcome:
    """What a run, or a shard of it, came to.

    Attributes:
        cost: its entry in the record's `costs`; None where nothing was missing.
        finished: whether nothing is missing any more of the whole run.
    """

    cost: Json | None
    finished: bool


@contextmanager
def _machine_failures() -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = _machine_failure(error)
        if reason is None:
            raise
        reason = reason.removeprefix("stopped: ")
        raise StoppedError(f"stopped: {reason}; what is finished is kept, the same command goes on") from error


def _machine_failure(error: Exception) -> str | None:
    """What the disk, the network or the accelerator said, if it was one of them that failed; None for anything else.

    Workers report the text of an exception, with its traceback; its type survives only in the line that begins what it
    said.
    """
    text = str(error).strip()
    *_, said = 0, *(found.start() for found in re.finditer(r"^[\w.]+(Error|Exception)\b", text, re.MULTILINE))
    kinds = r"\b\w*(OS|IO|Accelerator|Input|Stopped)Error\b|\bCUDA error\b|\[Errno \d+\]"
    told = re.search(kinds, text[said:]) or out_of_memory(text[said:])
    if told or isinstance(error, OSError | MemoryError | StoppedError):
        return text[said:].partition("\n")[0]
    return None


@_machine_failures()
def execute(
    prepared: Prepared,
    options: PipelineOptions,
    device: str,
    report: Callable[[CleanAccuracy], None],
    warn: Callable[[str], None],
    models_in_memory: int | None = None,
) -> Outcome:
    """Does everything that is missing of a run, or of a shard. The last shard finishes what all have in common.

    Args:
        device: auto, cpu or cuda.
        models_in_memory: most models that a worker may hold at once; None for all.
        report: told how each model did on clean images, before any rows are written.
        warn: told in one line of what changes while the run is at work.

    Raises:
        InputError: the device is not there, weights are not what they say, an engine cannot run its model, the run
            directory cannot be written, or another run is at work in it, or was since `prepare`.
        StoppedError: the run directory or the accelerator fails in the middle.
    """
    prepare_numerics(prepared.experiment.numerics)
    waves = make_waves(prepared.experiment, prepared.plan.missing, models_in_memory)
    models = _Models(prepared.pins, device, prepared.experiment.numerics, together=len(waves) <= 1)
    followed = {name for spec in prepared.experiment.specs if not spec.plain for name in spec.surrogates}
    for name, pinned in prepared.pins.items():
        open_ = pinned.engine == "auto" or (name in followed and pinned.gradients == "auto")
        if open_ or name not in prepared.record.proofs:
            # What is wrong with it is said before anything is written.
            models.resolve(name, followed=name in followed)
    _check_insides(prepared.experiment, models)
    prepared = _with_micro_batch(prepared, models)
    if prepared.lpips is not None and prepared.before is None:
        prepared.lpips.check(prepared.experiment.canvas.crop, prepared.conditions(device))
    for said in _slow_precisions(prepared.experiment, device):
        warn(said)
    shard = prepared.shard
    journal = _Journal(prepared.store, shard, warn)
    with lock(prepared.store, shard.lock):
        _refuse_beside_shards(prepared)
        with journal.turn():
            _take_over(prepared, models, device)
            for accuracy in _clean_accuracies(prepared, models, device, journal):
                report(accuracy)
        cost = _compute(prepared, options, device, waves, models, journal, warn) if waves else None
        if shard.is_whole:
            _tidy(prepared)
    return Outcome(cost, finished=shard.is_whole or _finished(prepared, journal))


def _check_insides(experiment: Experiment, models: "_Models") -> None:
    """Raises InputError for a surrogate inside which an attack finds nothing of what it looks for."""
    for spec in experiment.specs:
        attack = spec.build()
        if spec.modifiers or attack.looks_inside:
            try:
                surrogates = models.held(spec.surrogates).surrogates(spec)
                attack.check_models(as_followed(spec, surrogates))
            except InputError as error:
                raise InputError(f"attacks.{spec.name}: {error}") from None


def _with_micro_batch(prepared: Prepared, models: "_Models") -> Prepared:
    """With a micro-batch found by timing, where numerics are fast and nothing says how large it is."""
    defined = prepared.record.definitions
    attack = next((each for each in prepared.experiment.specs if each.surrogates), None)
    if defined.numerics == "exact" or defined.micro_batch or attack is None:
        return prepared
    surrogate = models.held(attack.surrogates).surrogates(attack)[0]
    most = quickest(partial(seconds_of_a_gradient, surrogate), defined.chunk_size)
    size = equal_parts(defined.chunk_size, most)
    record = prepared.record.replace(definitions=defined.replace(micro_batch=size))
    return replace(prepared, record=record)


def _slow_precisions(experiment: Experiment, device: str) -> Iterator[str]:
    for name, attack in experiment.attacks.items():
        if is_emulated(attack.precision, torch_device(device)):
            yield f"attacks.{name}.precision: this processor has no instructions for {attack.precision}; fp32 is faster"


class _Models:
    """The models of a run, held all together or only those that a wave needs."""

    def __init__(self, pins: Mapping[str, ModelPin], device: str, numerics: Numerics, *, together: bool) -> None:
        self.pins = dict(pins)
        self._hold = partial(HeldModels, device=device, numerics=numerics)
        self._together = self._hold(pins) if together else None

    def held(self, names: Collection[str]) -> HeldModels:
        """At least these."""
        return self._together or self._hold({name: self.pins[name] for name in names})

    def target(self, name: str) -> Classifier:
        """A model as it predicts."""
        return self.held([name]).target(name)

    def resolve(self, name: str, *, followed: bool) -> None:
        """Loads a model, and settles its engines; raises InputError where its weights or an engine are wrong."""
        self.pins[name] = self.held([name]).resolved(name, followed=followed)


class _Journal:
    """The record of a run while it is at work. Shards have it in common, and write one after the other."""

    def __init__(self, store: Store, shard: Shard, warn: Callable[[str], None]) -> None:
        self._store = store
        self._shard = shard
        self._warn = warn

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keeps other shards from the run directory, after waiting for them; raises InputError if they do not leave."""
        if self._shard.is_whole:
            yield  # It holds the whole run directory anyway.
        else:
            with lock_in_turn(self._store, self._warn):
                yield

    def read(self) -> RunRecord:
        """What it says now; raises StoppedError if it is gone."""
        record = read_record(self._store)
        if record is None:
            raise StoppedError(f"stopped: {self._store.root} has no {RUN_JSON} any more")
        return record


def _refuse_beside_shards(prepared: Prepared) -> None:
    others = shards_at_work(prepared.store) if prepared.shard.is_whole else []
    if others:
        raise InputError(f"--output: shards {', '.join(others)} are at work in {prepared.store.root}; wait for them")


def _take_over(prepared: Prepared, models: _Models, device: str) -> None:
    """Writes down what is going to be made, and removes what is damaged or was never finished."""
    store, shard = prepared.store, prepared.shard
    try:
        record = _record(prepared, models.pins, device, read_record(store))
        # First of all, as what is taken apart gets names that these may have.
        store.delete([*prepared.damaged, *prepared.doubled])
        # While run.json says how many chunks there were.
        take_apart(store, prepared.apart, prepared.chunks_before)
        write_record(store, record)
        write_manifest(store, prepared.segments)
        if shard.is_whole:
            store.delete(path for path in store.paths() if is_temporary(path))
        for part in prepared.again:
            store.delete([part.path])
    except OSError as error:
        raise InputError(f"--output: {store.root} cannot be written: {error}") from None


def _record(prepared: Prepared, pins: Mapping[str, ModelPin], device: str, there: RunRecord | None) -> RunRecord:
    """The record of a run or shard that begins, where `there` is one now.

    Raises:
        InputError: another run was at work since `prepare`, or other shards, which make something else.
    """
    record, root = prepared.record, prepared.store.root
    models = dict(record.definitions.models)
    for name, pinned in pins.items():
        models[name] = models[name].replace(engine=pinned.engine, gradients=pinned.gradients)
    defined = record.definitions.replace(models=models, micro_batch=prepared.conditions(device).micro_batch)
    if there == prepared.before:
        return record.replace(definitions=defined)
    if there is None or prepared.shard.is_whole:
        raise InputError(f"--output: another run was at work in {root} just now; give the same command again")
    merged = merge_definitions(root, there.definitions, defined)
    return record.replace(definitions=merged, proofs=there.proofs, costs=there.costs)


def _clean_accuracies(prepared: Prepared, models: _Models, device: str, journal: _Journal) -> list[CleanAccuracy]:
    record = journal.read()
    checked = check_clean_accuracy(prepared, prepared.conditions(device), models.target, record.proofs)
    found = {each.model: (each.correct, each.of) for each in checked}
    if not found.items() <= record.proofs.items():
        write_record(prepared.store, record.replace(proofs={**record.proofs, **found}))
    return checked


def _compute(
    prepared: Prepared,
    options: PipelineOptions,
    device: str,
    waves: Sequence[Wave],
    models: _Models,
    journal: _Journal,
    warn: Callable[[str], None],
) -> Json:
    experiment, store, plan = prepared.experiment, prepared.store, prepared.plan
    started = time.monotonic()
    conditions, done = prepared.conditions(device), False
    counters: Counter[str] = Counter()
    with progress_bar(store, plan.missing, experiment.name):
        while not done:
            try:
                for wave in waves:
                    files = Store(store.root, bundles=_has_bundles(prepared))
                    held, labeller = models.held(wave.models), experiment.images.labeller
                    context = StepContext(files, held, experiment.canvas.spec, conditions, labeller, prepared.lpips)
                    root = beam.Pipeline(options=options)
                    build(root, experiment, context, wave.work(prepared.chunks), wave.targets, prepared.material)
                    counters += run_to_end(root)
                done = True
            except Exception as error:
                conditions = _with_less_memory(conditions, error)
                with journal.turn():
                    record = journal.read()
                    defined = record.definitions.replace(micro_batch=conditions.micro_batch)
                    write_record(store, record.replace(definitions=defined))
                warn(
                    f"out of memory; going on with micro_batch {conditions.micro_batch}, so that new rows may differ "
                    "from old ones in the last bits"
                )
        _see_that_all_is_there(prepared)
    seconds = round(time.monotonic() - started, 1)
    cost = {**plan.cost, "seconds": seconds, "device": str(torch_device(device)), **versions(), **recorded(counters)}
    with journal.turn():
        record = journal.read()
        write_record(store, record.replace(costs=(*record.costs, cost)))
    return cost


def _has_bundles(prepared: Prepared) -> bool:
    """Whether there are any, or the whole run, other shards too, makes more files than a disk may like to hold."""
    every = Tasks.every(prepared.experiment, prepared.chunks)
    return prepared.bundled or (len(prepared.chunks) > FEW and every.files > MOST_FILES)


def _with_less_memory(conditions: Conditions, error: Exception) -> Conditions:
    """Conditions with half the micro-batch; raises the error where it is another one, or there is nothing to halve."""
    if conditions.micro_batch == 1 or not out_of_memory(error):
        raise error
    return replace(conditions, micro_batch=conditions.micro_batch // 2)


def _tidy(prepared: Prepared) -> None:
    """Removes what is needed no longer, and makes few files of many."""
    experiment, store = prepared.experiment, prepared.store
    store.delete(notes(store))
    paths = store.paths()
    store.delete(filter(is_shard_lock, paths))
    if not experiment.keep_canvases:
        folders = {canvases_part(0, spec.name).folder for spec in experiment.specs}
        files = own_files(prepared.record.definitions, paths)
        store.delete(path for path in files if path.rpartition("/")[0] in folders)
    files = own_files(prepared.record.definitions, store.paths())
    compact(store, files, len(prepared.chunks), experiment.name)


def _finished(prepared: Prepared, journal: _Journal) -> bool:
    """Whether nothing is missing of the whole run; the last shard to leave tidies up for all."""
    store = prepared.store
    with journal.turn():
        if shards_at_work(store):
            return False
        files = own_files(journal.read().definitions, store.paths())
        finished = not make_plan(prepared.experiment, prepared.chunks, files).missing
        if finished:
            _tidy(prepared)
    return finished


def _see_that_all_is_there(prepared: Prepared) -> None:
    """Raises StoppedError if something is gone that was finished, as when somebody empties the run directory."""
    gone = prepared.plan.missing.absent_from(prepared.store.paths())
    if gone:
        raise StoppedError(
            f"stopped: {len(gone)} tasks that were finished are gone from {prepared.store.root}; "
            "the same command makes them again"
        )

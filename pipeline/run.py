"""A run from beginning to end: what is missing is planned, models prove themselves, the pipeline does the rest."""

import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from filelock import FileLock, Timeout

from pipeline.buckets import reach
from pipeline.compaction import compact
from pipeline.experiment import Experiment
from pipeline.graph import build
from pipeline.lease import LOCK, WATCH, lease
from pipeline.listing import absolute
from pipeline.manifest import list_images
from pipeline.plan import Plan, Wave, make_plan, make_waves
from pipeline.progress import progress_bar
from pipeline.proof import Proof, prove
from pipeline.run_directory import Json, definitions, merge_definitions, read_run, versions, write_run
from pipeline.runners import run_to_end, workers_here
from transforms.attempts import FOLDER as ATTEMPTS
from transforms.attempts import no_blame
from transforms.chunks import Chunk, ImageRef, make_chunks, one_of_each_class
from transforms.errors import InputError, StoppedError
from transforms.held_models import HeldModels, ModelPin, pin, prepare_torch, torch_device
from transforms.levels import WHITE
from transforms.models.classifier import Classifier
from transforms.read import is_remote
from transforms.setting import Setting
from transforms.store import Store, canvases_part, is_temporary, of_tables, part_of

_NEARLY = 0.99
"""Of a budget: what is cut off of 0.0314, meant to be 8/255, need not be said."""
_OF_LINF = 16
"""Levels that are a usual budget in L∞, and hardly one in any other norm."""


@dataclass(frozen=True)
class Prepared:
    """An experiment beside a run directory, before anything is written.

    Attributes:
        store: the run directory.
        chunks: all of the experiment's.
        pool: images of different classes, which attacks may mix in.
        pins: the models that it uses, with their weights found.
        before: what `run.json` says; None where there is none.
        run: what it is going to say.
        plan: what is missing.
        damaged: paths of parts that are there, but not whole.
        warnings: what the user should know before going on, one line each.
    """

    experiment: Experiment
    store: Store
    chunks: tuple[Chunk, ...]
    pool: tuple[ImageRef, ...]
    pins: dict[str, ModelPin]
    before: Json | None
    run: Json
    plan: Plan
    damaged: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def paths(self) -> Iterator[str]:
        """What workers must be able to see: the run directory, the images, and weights that the experiment names."""
        yield self.store.root
        yield from (ref.uri for chunk in self.chunks for ref in chunk.refs if not ref.problem)
        yield from (each.weights for each in self.pins.values() if each.weights)


def prepare(experiment: Experiment, output: str) -> Prepared:
    """Lists images, finds weights, and compares the experiment with what the run directory holds.

    Writes nothing there; weights that are missing are downloaded to their library's cache.

    Raises:
        InputError: something the experiment names is missing, or contradicts the run directory.
    """
    if not output:
        raise InputError("--output: give the path of a run directory")
    store = Store(absolute(output))
    reach("--output", store.root)
    if Path(store.root).is_file():
        raise InputError(f"--output: {store.root} is a file; give the path of a run directory")
    files = store.paths()
    old = read_run(store)
    if old is None and any(path != LOCK and not is_temporary(path) for path in files):
        raise InputError(f"--output: {store.root} holds files but no run.json, so it is not a run directory of ours")
    refs = list_images(experiment.images, experiment.seed)
    chunks, pool = make_chunks(refs, experiment.chunk_size), one_of_each_class(refs, experiment.seed)
    for spec in experiment.specs:
        if spec.mixes and len(pool) < 2:  # noqa: PLR2004 - another class than an image's own
            raise InputError(f"attacks.{spec.name}: {spec.recipe} mixes in other classes, and there is one class only")
    pins = _pins(experiment, old["definitions"]["models"] if old else {})
    new = definitions(experiment, chunks, pins)
    run: Json = {
        "experiment": experiment.model_dump(mode="json"),
        "definitions": merge_definitions(store, old["definitions"], new) if old else new,
        "versions": versions(),
        "proofs": dict(old["proofs"]) if old else {},
        "costs": list(old["costs"]) if old else [],
    }
    warnings = (*_unusable(refs), *_strange_budgets(experiment))
    warnings += _version_warnings(old["versions"], run["versions"]) if old else ()
    if is_remote(store.root) and LOCK in files:
        warnings += (f"a run may be at work in {store.root}; a new one first watches it for {WATCH:.0f} seconds",)
    parts = of_tables(files)
    damaged = parts - store.whole(parts)
    damaged |= parts & set().union(*map(_unexplained_without, damaged))
    plan = make_plan(experiment, chunks, parts - damaged)
    return Prepared(experiment, store, chunks, pool, pins, old, run, plan, tuple(sorted(damaged)), warnings)


def _unexplained_without(path: str) -> set[str]:
    """Files of predictions that lack rows for which a file of failures gives the reason: both are made again."""
    folder = "failures/stage=predict/"
    if not path.startswith(folder):
        return set()
    predictions = f"predictions/{path.removeprefix(folder)}"
    part = part_of(predictions)
    return {predictions, part.gathered} if part else {predictions}


def _pins(experiment: Experiment, before: Json) -> dict[str, ModelPin]:
    """The models, with their weights found.

    A model that no attack follows is a black box. What it was in this run directory before it stays, so that all of its
    predictions are made alike.
    """
    followed = {name for spec in experiment.specs for name in spec.surrogates}
    pins = {}
    for name, config in experiment.used_models.items():
        black_box = before[name].get("black_box", False) if name in before else name not in followed
        found = pin(config.source, config.weights, config.preprocessing)
        pins[name] = replace(found, black_box=black_box)
    return pins


def execute(
    prepared: Prepared,
    options: PipelineOptions,
    device: str,
    report: Callable[[Proof], None],
    models_in_memory: int | None = None,
) -> None:
    """Does everything that is missing.

    Args:
        device: auto, cpu or cuda.
        models_in_memory: most models that a worker may hold at once; None for all.
        report: told how each model did on clean images, before any rows are written.

    Raises:
        InputError: the device is not there, weights are not what they say, the run directory cannot be written, or
            another run is at work in it, or was since `prepare`.
        StoppedError: the run directory or the accelerator fails in the middle.
    """
    prepare_torch()
    waves = make_waves(prepared.experiment, prepared.plan.missing, models_in_memory)

    def held(names: Collection[str]) -> HeldModels:
        return HeldModels({name: prepared.pins[name] for name in names}, device)

    models = held(prepared.pins) if len(waves) <= 1 else None

    def load(name: str) -> Classifier:
        return (models or held([name])).target(name)

    for name in prepared.pins:
        if name not in prepared.run["proofs"]:
            load(name)  # What is wrong with it is said before anything is written.
    with _alone(prepared.store):
        _take_over(prepared)
        for proof in _proofs(prepared, load):
            report(proof)
        if waves:
            _compute(prepared, options, device, waves, lambda wave: models or held(wave.models))
        _tidy(prepared)


def _take_over(prepared: Prepared) -> None:
    """Writes down what is going to be made, and removes what is damaged or was never finished."""
    store = prepared.store
    try:
        if read_run(store) != prepared.before:
            raise InputError(f"--output: another run was at work in {store.root} just now; give the same command again")
        write_run(store, prepared.run)
        store.delete(prepared.damaged)
        store.delete(path for path in store.paths() if is_temporary(path))
    except OSError as error:
        raise InputError(f"--output: {store.root} cannot be written: {error}") from None


def _proofs(prepared: Prepared, load: Callable[[str], Classifier]) -> list[Proof]:
    store, run = prepared.store, prepared.run
    with _machine_failures(), no_blame(store, workers_here=True):
        proofs = prove(prepared.experiment, store, prepared.chunks, prepared.pins, load, run["proofs"])
        found = {proof.model: [proof.correct, proof.of] for proof in proofs}
        if not found.items() <= run["proofs"].items():
            run["proofs"] |= found
            write_run(store, run)
    return proofs


def _compute(
    prepared: Prepared,
    options: PipelineOptions,
    device: str,
    waves: Sequence[Wave],
    models: Callable[[Wave], HeldModels],
) -> None:
    experiment, store, run, plan = prepared.experiment, prepared.store, prepared.run, prepared.plan
    canvas, seed, size = experiment.canvas.spec, experiment.seed, experiment.chunk_size
    started = time.monotonic()
    progress = progress_bar(store, plan.missing, experiment.name)
    with _machine_failures(), no_blame(store, workers_here(options)), progress:
        for wave in waves:
            setting = Setting(store, models(wave), canvas, seed, size)
            root = beam.Pipeline(options=options)
            build(root, experiment, setting, wave.work(prepared.chunks), wave.targets, prepared.pool)
            run_to_end(root)
        _see_that_all_is_there(prepared)
    seconds = round(time.monotonic() - started, 1)
    run["costs"].append({**plan.cost, "seconds": seconds, "device": str(torch_device(device)), **versions()})
    write_run(store, run)


def _tidy(prepared: Prepared) -> None:
    """Removes what is needed no longer, and makes few files of many."""
    experiment, store = prepared.experiment, prepared.store
    with _machine_failures():
        store.delete(store.paths(ATTEMPTS))
        if not experiment.keep_canvases:
            folders = {canvases_part(0, spec.name).folder for spec in experiment.specs}
            store.delete(path for path in of_tables(store.paths("canvases")) if path.rpartition("/")[0] in folders)
        compact(store, len(prepared.chunks), experiment.name)


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Holds the run directory against other runs; a local lock goes with the process, however it ends."""
    if is_remote(store.root):
        with lease(store):
            yield
        return
    try:
        Path(store.root).mkdir(parents=True, exist_ok=True)
        lock = FileLock(Path(store.root, LOCK), timeout=0)
        lock.acquire()
    except Timeout:
        raise InputError(f"--output: another run is at work in {store.root}; wait for it, or stop it") from None
    except OSError as error:
        raise InputError(f"--output: {store.root} cannot be written: {error}") from None
    with lock:
        yield


def _see_that_all_is_there(prepared: Prepared) -> None:
    """Raises StoppedError if something is gone that was finished, as when somebody empties the run directory."""
    gone = prepared.plan.missing.absent_from(prepared.store.paths())
    if gone:
        raise StoppedError(
            f"stopped: {len(gone)} units that were finished are gone from {prepared.store.root}; "
            "the same command makes them again"
        )


@contextmanager
def _machine_failures() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = _machine_failure(error)
        if reason is None:
            raise
        raise StoppedError(f"stopped: {reason}; what is finished is kept, the same command goes on") from error


def _machine_failure(error: Exception) -> str | None:
    """What the disk, the network or the accelerator said, if it was one of them that failed; None for anything else.

    Workers report the text of an exception, with its traceback; its type survives only in the line that begins what it
    said.
    """
    text = str(error).strip()
    *_, said = 0, *(found.start() for found in re.finditer(r"^[\w.]+(Error|Exception)\b", text, re.MULTILINE))
    kinds = r"\b\w*(OS|IO|Memory|Accelerator|Input|Stopped)Error\b|\bCUDA error\b|\[Errno \d+\]"
    if re.search(kinds, text[said:]) or isinstance(error, OSError | MemoryError | StoppedError):
        return text[said:].partition("\n")[0]
    return None


def _unusable(refs: Sequence[ImageRef]) -> Iterator[str]:
    problems = [f"{ref.image_id}: {ref.problem}" for ref in refs if ref.problem]
    if problems:
        yield f"{len(problems)} of {len(refs)} images cannot be used, each a row of failures; {problems[0]}"


def _strange_budgets(experiment: Experiment) -> Iterator[str]:
    """Budgets of which 8 bits use a part only, and those in another norm that look like one in L∞."""
    for name, attack in experiment.attacks.items():
        levels = attack.eps * WHITE
        if attack.norm == "linf" and math.floor(levels) < _NEARLY * levels:
            used = f"{float(levels):.2f} grey levels, of which 8-bit pictures use {math.floor(levels)}"
            yield f"attacks.{name}.eps: {attack.eps} is {used}"
        if attack.norm != "linf" and levels <= _OF_LINF:
            values = math.floor(levels**2 if attack.norm == "l2" else levels)
            least = f"changes {values} values of a picture by one level at most"
            yield f"attacks.{name}.eps: {attack.eps} in {attack.norm} {least}"


def _version_warnings(before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    changed = [f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    text = f"this run directory was made with {'; '.join(changed)}: new rows may differ from old ones in the last bits"
    return (text,) if changed else ()

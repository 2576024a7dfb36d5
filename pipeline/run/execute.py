"""A run from beginning to end: models are checked on clean images, the pipeline does the rest."""

import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from filelock import FileLock, Timeout

from pipeline.run.clean_accuracy import CleanAccuracy, check_clean_accuracy
from pipeline.run.compaction import compact
from pipeline.run.definitions import read_run, versions, write_run
from pipeline.run.graph import build
from pipeline.run.lock import LOCK, lease
from pipeline.run.plan import Wave, make_waves
from pipeline.run.prepare import Prepared
from pipeline.run.progress import progress_bar
from pipeline.run.runners import run_to_end, workers_here
from transforms.errors import InputError, StoppedError
from transforms.models.classifier import Classifier
from transforms.models.device import prepare_torch, torch_device
from transforms.rows.parts import canvases_part, of_tables
from transforms.steps.context import Setting
from transforms.steps.held_models import HeldModels
from transforms.storage.crash_guard import FOLDER as ATTEMPTS
from transforms.storage.crash_guard import no_blame
from transforms.storage.files import is_remote
from transforms.storage.store import Store, is_temporary


def execute(
    prepared: Prepared,
    options: PipelineOptions,
    device: str,
    report: Callable[[CleanAccuracy], None],
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


def _proofs(prepared: Prepared, load: Callable[[str], Classifier]) -> list[CleanAccuracy]:
    store, run = prepared.store, prepared.run
    with _machine_failures(), no_blame(store, workers_here=True):
        proofs = check_clean_accuracy(prepared.experiment, store, prepared.chunks, prepared.pins, load, run["proofs"])
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

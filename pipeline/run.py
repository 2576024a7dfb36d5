"""A run from beginning to end: what is missing is planned, models prove themselves, the pipeline does the rest."""

import re
import time
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.experiment import Experiment
from pipeline.graph import build
from pipeline.listing import absolute
from pipeline.manifest import list_images
from pipeline.plan import Plan, make_plan
from pipeline.progress import progress_bar
from pipeline.proof import Proof, prove
from pipeline.run_directory import Json, definitions, merge_definitions, read_run, versions, write_run
from transforms.chunks import Chunk, make_chunks
from transforms.errors import InputError, StoppedError
from transforms.held_models import HeldModels, ModelPin, pin, prepare_torch, torch_device
from transforms.store import CLEAN, Store


@dataclass(frozen=True)
class Prepared:
    """An experiment beside a run directory, before anything is written.

    Attributes:
        store: the run directory.
        chunks: all of the experiment's.
        pins: the models that it uses, with their weights found.
        run: what `run.json` is going to say.
        plan: what is missing.
        leftovers: paths of damaged parts and of unfinished files, to be removed.
    """

    experiment: Experiment
    store: Store
    chunks: tuple[Chunk, ...]
    pins: dict[str, ModelPin]
    run: Json
    plan: Plan
    leftovers: tuple[str, ...]


def prepare(experiment: Experiment, output: str) -> Prepared:
    """Lists images, finds weights, and compares the experiment with what the run directory holds. Writes nothing.

    Raises:
        InputError: something the experiment names is missing, or contradicts the run directory.
    """
    store = Store(absolute(output))
    files = store.sizes()
    old = read_run(store)
    if old is None and files:
        raise InputError(f"--output: {store.root} holds files but no run.json, so it is not a run directory of ours")
    chunks = make_chunks(list_images(experiment.images, experiment.seed), experiment.chunk_size)
    pins = {name: pin(config.source, config.weights) for name, config in experiment.used_models.items()}
    new = definitions(experiment, chunks, pins)
    run: Json = {
        "experiment": experiment.model_dump(mode="json"),
        "definitions": merge_definitions(store, old["definitions"], new) if old else new,
        "versions": versions(),
        "proofs": old["proofs"] if old else {},
        "costs": old["costs"] if old else [],
    }
    parts = {path for path in files if path.endswith(".parquet")}
    whole = {path for path in parts if store.is_whole(path)}
    unfinished = {path for path in files if path.endswith(".tmp")}
    plan = make_plan(experiment, chunks, whole)
    return Prepared(experiment, store, chunks, pins, run, plan, tuple(sorted(parts - whole | unfinished)))


def execute(prepared: Prepared, options: PipelineOptions, device: str) -> list[Proof]:
    """Does everything that is missing; returns how the models did on clean images.

    Raises:
        InputError: the device is not there, or the run directory cannot be written.
        StoppedError: the run directory or the accelerator fails in the middle.
    """
    torch_device(device)
    prepare_torch()
    experiment, store, run = prepared.experiment, prepared.store, prepared.run
    try:
        write_run(store, run)
        store.delete(prepared.leftovers)
    except OSError as error:
        raise InputError(f"--output: {store.root} cannot be written: {error}") from None
    models = HeldModels(prepared.pins, device)
    proofs = prove(experiment, prepared.chunks, prepared.pins, models, run["proofs"])
    run["proofs"] = {**run["proofs"], **{proof.model: [proof.correct, proof.of] for proof in proofs}}
    write_run(store, run)
    if prepared.plan.missing:
        started = time.monotonic()
        _pipeline(prepared, models, options)
        if not experiment.keep_canvases:
            store.delete(path for path in store.sizes() if _is_adversarial_canvases(path))
        run["costs"].append({**prepared.plan.cost, "seconds": round(time.monotonic() - started, 1)})
        write_run(store, run)
    return proofs


def _is_adversarial_canvases(path: str) -> bool:
    return path.startswith("canvases/") and not path.startswith(f"canvases/attack={CLEAN}/")


def _pipeline(prepared: Prepared, models: HeldModels, options: PipelineOptions) -> None:
    plan, store = prepared.plan, prepared.store
    try:
        with progress_bar(store, plan.missing, prepared.experiment.name), beam.Pipeline(options=options) as root:
            build(root, prepared.experiment, plan.work(prepared.chunks), models, store)
    except Exception as error:
        reason = _machine_failure(error)
        if reason is None:
            raise
        raise StoppedError(f"stopped: {reason}; what is finished is kept, the same command goes on") from error


def _machine_failure(error: Exception) -> str | None:
    """What the disk, the network or the accelerator said, if it was one of them that failed; None for anything else.

    Workers report the text of an exception, with its traceback; its type survives only in the last line.
    """
    last = str(error).strip().rpartition("\n")[2]
    named = re.search(r"\b(\w*OSError|\w*IOError|BeamIOError|OutOfMemoryError|AcceleratorError|InputError)\b", last)
    return last if named or isinstance(error, OSError) else None

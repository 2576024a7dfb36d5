"""How long a plan takes: a few images go through each of its steps here and now, and the rest is arithmetic."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from pipeline.run.plan import TaskKind, Tasks
from pipeline.run.prepare import Prepared
from transforms.attacks.spec import AttackSpec
from transforms.data.chunks import Chunk, Work
from transforms.defenses.defense import NO_DEFENSE, Defense
from transforms.errors import InputError
from transforms.models.answers import Answers, defend_batch, predict_batch
from transforms.models.classifier import Classifier
from transforms.models.views import VIEWS, windows
from transforms.rows.parts import CLEAN, predictions_part
from transforms.rows.predictions import prediction_rows
from transforms.rows.tables import rows_table
from transforms.steps.attack import AttackChunk
from transforms.steps.context import StepContext
from transforms.steps.held_models import HeldModels
from transforms.steps.load import load_chunk
from transforms.steps.process import prepare_numerics
from transforms.steps.stored import publish
from transforms.storage.store import Store
from transforms.storage.stored_canvases import CanvasRef, read_canvases

_TRIALS = 2
"""Micro-batches that are taken through every step."""
_PATIENCE = 10.0
"""Seconds after which an attack is stopped at its next pass; the time of the passes left is inferred."""

_HOUR = 3600
_UNITS = (("seconds", 1), ("minutes", 60), ("hours", _HOUR))
_MANY = 120
"""From so many of one unit on, the next unit is better."""


@dataclass(frozen=True)
class Estimate:
    """What a plan takes.

    Attributes:
        low, high: seconds that one worker needs; the quicker trial of each step added up, and the slower.
        chunks: among which the time is divided. A worker takes whole ones.
    """

    low: float
    high: float
    chunks: int

    def in_words(self, workers: int, price: float | None) -> str:
        """One line for so many workers; `price` is of an hour of one of them, which is paid until the last is done."""
        most = -(-self.chunks // workers) / self.chunks
        low, high = self.low * most, self.high * most
        name, unit = next((each for each in _UNITS if high < _MANY * each[1]), _UNITS[-1])
        crew = "1 worker" if workers == 1 else f"{workers} workers"
        said = f"to do: about {low / unit:,.1f} to {high / unit:,.1f} {name} with {crew} like this one"
        if price is None:
            return said
        hourly = workers * price / _HOUR
        return f"{said}, for {low * hourly:,.2f} to {high * hourly:,.2f}"


def estimate(prepared: Prepared, device: str) -> Estimate:
    """Times each step of which anything is missing, on some of the experiment's images, in a temporary folder.

    Not in it are the start of workers, the clean-accuracy check, and what a runner takes for itself. An attack that
    ends when it has succeeded is taken to need what it needed in the trial or, where that was stopped, all it may.

    Args:
        device: auto, cpu or cuda.

    Raises:
        InputError: the device is not there, weights are not what they say, or the images cannot be read.
    """
    experiment, missing = prepared.experiment, prepared.plan.missing
    prepare_numerics(experiment.numerics)
    models = HeldModels(prepared.pins, device, experiment.numerics)
    with TemporaryDirectory() as folder:
        labeller = experiment.images.labeller
        context = StepContext(
            Store(folder), models, experiment.canvas.spec, prepared.conditions(device), labeller, prepared.lpips
        )
        # A short micro-batch is filled up, and takes as long as a full one.
        batches = replace(missing, images=-(-missing.images // context.conditions.micro_batch))
        trials = [
            list(_Trial(prepared, context, chunk).seconds(batches))
            for chunk in _some_images(prepared, context.conditions.micro_batch)
        ]
    steps = list(zip(*trials, strict=True))
    return Estimate(sum(map(min, steps)), sum(map(max, steps)), int(missing.chunks.sum()))


def _some_images(prepared: Prepared, size: int) -> list[Chunk]:
    """A micro-batch of usable images from each part of the experiment; where it is small, they overlap."""
    refs = [ref for chunk in prepared.chunks for ref in chunk.refs if not ref.problem]
    starts = [max(0, min(trial * len(refs) // _TRIALS, len(refs) - size)) for trial in range(_TRIALS)]
    return [Chunk(trial, tuple(refs[start : start + size])) for trial, start in enumerate(starts) if refs]


class _Trial:
    """A micro-batch that is taken through single steps, by what workers call."""

    def __init__(self, prepared: Prepared, context: StepContext, chunk: Chunk) -> None:
        experiment = prepared.experiment
        self._experiment, self._context, self._chunk = experiment, context, chunk
        self._attacks = AttackChunk(context, experiment.specs, prepared.material)
        self._specs = {spec.name: spec for spec in experiment.specs}
        self._defenses = {each.name: each for some in experiment.defenses_of.values() for each in some}
        self._answers = Answers(())
        self._known: dict[tuple[str, ...], float] = {}
        self._timed(("load",), lambda: publish(context.store, load_chunk(context, chunk)))
        self._batch = read_canvases(context.store, CanvasRef(chunk, CLEAN))
        if not self._batch.labels:
            raise InputError(f"images: there is nothing to time, {chunk.refs[0].uri} and others cannot be read")

    def seconds(self, batches: Tasks) -> Iterator[float]:
        """What each step takes; `batches.images` counts micro-batches."""
        steps = [(step, number) for step, _, number in batches.tally()]
        looks = Counter((step.attack, step.defense) for step, _ in steps)
        for step, number in steps:
            if step.kind == "load":
                yield number * self._known["load",]
            elif step.kind == "attack":
                yield number * self._attack(self._specs[step.attack], step)
            else:
                shown = self._show(self._defenses[step.defense])
                # Canvases are defended once for all that look at them.
                yield number * (self._predict(step) + shown / looks[step.attack, step.defense])

    def _attack(self, spec: AttackSpec, step: TaskKind) -> float:
        models = self._context.models.surrogates(spec)
        work = Work(self._chunk, frozenset([spec.name]))
        taken, shown = _taken(lambda: list(self._attacks.process(work)), models)
        if shown is None:
            return taken
        judging = 2 * len(models) * windows(VIEWS[spec.view]) * spec.defense.repeats
        return taken * (step.forwards + judging) * self._context.conditions.micro_batch / shown

    def _show(self, defense: Defense) -> float:
        """Reading canvases, and defending them."""
        context, batch = self._context, self._batch
        read = self._timed(("read",), lambda: read_canvases(context.store, CanvasRef(self._chunk, CLEAN)))
        defend = self._timed(("defend", defense.name), lambda: defend_batch(defense, batch, 0, context.conditions))
        return read + defense.repeats * defend

    def _predict(self, step: TaskKind) -> float:
        """Looking at canvases as often as the defence is drawn, and writing what was seen."""
        defense = self._defenses[step.defense]
        model = self._context.models.target(step.model)
        look = self._timed(("look", step.model, step.view), lambda: self._look(model, step.view))
        return defense.repeats * look + self._timed(("write",), lambda: self._write(step))

    def _look(self, model: Classifier, view: str) -> None:
        conditions, batch = self._context.conditions, self._batch
        pixels = torch.from_numpy(batch.pixels)
        self._answers = Answers(batch.labels)
        self._answers.add(predict_batch(model, view, pixels, conditions))

    def _write(self, step: TaskKind) -> None:
        every = self._experiment.all_probabilities
        rows = prediction_rows(self._batch, self._answers.summed_up(), NO_DEFENSE, all_probabilities=every)
        part = predictions_part(self._chunk.index, CLEAN, step.model, step.view, NO_DEFENSE.name)
        self._context.store.publish(part, rows_table("predictions", rows))

    def _timed(self, name: tuple[str, ...], work: Callable[[], object]) -> float:
        """Seconds that some work takes; work of one name is done once."""
        if name not in self._known:
            self._known[name], _ = _taken(work)
        return self._known[name]


class _StoppedError(BaseException):
    """Not an Exception, which attacks of other libraries may catch."""


def _taken(work: Callable[[], object], models: Sequence[Classifier] = ()) -> tuple[float, int | None]:
    """How long some work takes, in seconds; if that is too long, what it has taken until it was stopped.

    Args:
        models: each picture that they are shown is a moment at which the work may be stopped.

    Returns:
        The seconds; and None or, of work that was stopped, the number of pictures that the models have been shown.
    """
    shown = 0
    started = time.perf_counter()

    def count(model: nn.Module, pictures: tuple[Tensor, ...]) -> None:
        nonlocal shown
        if time.perf_counter() - started > _PATIENCE and shown:
            raise _StoppedError
        shown += len(pictures[0])

    with ExitStack() as hooks:
        for model in models:
            # Of the network, which a modified classifier has in common with the plain one.
            hooks.callback(model.network.register_forward_pre_hook(count).remove)
        try:
            work()
        except _StoppedError:
            if models[0].device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - started, shown
        return time.perf_counter() - started, None

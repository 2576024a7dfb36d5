"""The clean-accuracy check before any attack: each model must be mostly right on clean labelled images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline.results.statistics import FAR, Rate
from pipeline.run.prepare import Prepared
from transforms.data.chunks import Chunk, ImageRef
from transforms.data.decode import BadImage, CanvasSpec
from transforms.models.answers import predict_batch
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions
from transforms.steps.crash_guard import guarded
from transforms.storage.images import read_image

_IMAGES = 20


@dataclass(frozen=True)
class CleanAccuracy:
    """How many of some clean images a model got right, and the top-1 accuracy that was published of it."""

    model: str
    correct: int
    of: int
    published: float | None = None

    @property
    def implausible(self) -> bool:
        """Whether even a lucky reading of the count leaves the model far below what was published, or, where nothing
        is known, wrong more often than right."""
        least = 1 / 2 if self.published is None else self.published - FAR
        return self.of > 0 and Rate(self.correct, self.of).high < least


def check_clean_accuracy(
    prepared: Prepared,
    conditions: Conditions,
    target: Callable[[str], Classifier],
    known: Mapping[str, tuple[int, int]],
) -> list[CleanAccuracy]:
    """Shows each of the models the same clean images, spread evenly over the experiment's, but for those that kill.
    Where labels are what a model says, none is asked.

    Args:
        target: a model by its name, as it predicts.
        known: how many images models that need not be asked again got right, and of how many.
    """
    experiment, pins = prepared.experiment, prepared.pins
    if experiment.images.labeller is not None:
        return []
    counts = {name: known[name] for name in pins if name in known}
    unknown = [name for name in pins if name not in known]
    if unknown:
        refs = _some_images(prepared.chunks)
        work = partial(_correct_of_some, experiment.canvas.spec, experiment.views[0], conditions, refs, target, unknown)
        groups = guarded(prepared.store, "proof", [ref.image_id for ref in refs], work) if refs else []
        for name in unknown:
            correct, of = (sum(found[name][place] for _, found in groups) for place in (0, 1))
            counts[name] = correct, of
    return [CleanAccuracy(name, counts[name][0], counts[name][1], pinned.published) for name, pinned in pins.items()]


def _some_images(chunks: Sequence[Chunk]) -> list[ImageRef]:
    refs = [ref for chunk in chunks for ref in chunk.refs if not ref.problem]
    return [refs[int(place)] for place in np.linspace(0, len(refs) - 1, min(_IMAGES, len(refs)))]


def _correct_of_some(
    canvas: CanvasSpec,
    view: str,
    conditions: Conditions,
    refs: Sequence[ImageRef],
    target: Callable[[str], Classifier],
    names: Sequence[str],
    some: Sequence[int],
) -> dict[str, tuple[int, int]]:
    labels, canvases = _clean_images(canvas, [refs[number] for number in some])
    return {name: (_correct(target(name), view, labels, canvases, conditions), len(labels)) for name in names}


def _clean_images(spec: CanvasSpec, refs: Sequence[ImageRef]) -> tuple[torch.Tensor, torch.Tensor]:
    loaded = [(ref.label, canvas) for ref in refs if (canvas := _canvas(ref, spec)) is not None]
    labels = torch.tensor([label for label, _ in loaded])
    return labels, torch.stack([canvas for _, canvas in loaded]) if loaded else torch.empty(0)


def _canvas(ref: ImageRef, spec: CanvasSpec) -> torch.Tensor | None:
    try:
        _, decoded = read_image(ref, spec)
    except (BadImage, OSError):
        return None  # the pipeline is going to meet it again, and record it
    return torch.from_numpy(decoded.canvas)


def _correct(model: Classifier, view: str, labels: torch.Tensor, canvases: torch.Tensor, conditions: Conditions) -> int:
    if not len(labels):
        return 0
    predicted = predict_batch(model, view, canvases, conditions).argmax(dim=1)
    return int((predicted == labels).sum())

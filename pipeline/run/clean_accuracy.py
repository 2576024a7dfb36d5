"""Models check_clean_accuracy themselves: before any attack, each must be mostly right on clean labelled images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config.experiment import Experiment
from pipeline.results.statistics import Rate
from transforms.data.chunks import Chunk, ImageRef
from transforms.data.decode import BadImage
from transforms.models.answers import predict_batch
from transforms.models.batches import micro_batch
from transforms.models.classifier import Classifier
from transforms.models.pin import ModelPin
from transforms.storage.crash_guard import guarded
from transforms.storage.images import read_image
from transforms.storage.store import Store

_IMAGES = 20
_FAR = 0.1
"""From the published accuracy, which is of other images than those at hand."""


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
        least = 1 / 2 if self.published is None else self.published - _FAR
        return self.of > 0 and Rate(self.correct, self.of).high < least


def check_clean_accuracy(
    experiment: Experiment,
    store: Store,
    chunks: Sequence[Chunk],
    pins: Mapping[str, ModelPin],
    load: Callable[[str], Classifier],
    known: Mapping[str, Sequence[int]],
) -> list[CleanAccuracy]:
    """Shows each of the models the same clean images, spread evenly over the experiment's, but for those that kill.

    Args:
        store: where it is recorded what is begun.
        load: a model by its name.
        known: of models that need not be asked again, how many they got right and of how many.
    """
    counts = {name: known[name] for name in pins if name in known}
    unknown = [name for name in pins if name not in known]
    if unknown:
        refs = _some_images(chunks)

        def work(some: Sequence[int]) -> dict[str, tuple[int, int]]:
            labels, canvases = _clean_images(experiment, [refs[number] for number in some])
            return {name: (_correct(experiment, load(name), labels, canvases), len(labels)) for name in unknown}

        _, found = guarded(store, "proof", [ref.image_id for ref in refs], work)
        counts |= found or dict.fromkeys(unknown, (0, 0))
    return [CleanAccuracy(name, counts[name][0], counts[name][1], pinned.published) for name, pinned in pins.items()]


def _some_images(chunks: Sequence[Chunk]) -> list[ImageRef]:
    refs = [ref for chunk in chunks for ref in chunk.refs if not ref.problem]
    return [refs[int(place)] for place in np.linspace(0, len(refs) - 1, min(_IMAGES, len(refs)))]


def _clean_images(experiment: Experiment, refs: Sequence[ImageRef]) -> tuple[torch.Tensor, torch.Tensor]:
    loaded = [(ref.label, canvas) for ref in refs if (canvas := _canvas(ref, experiment)) is not None]
    labels = torch.tensor([label for label, _ in loaded])
    return labels, torch.stack([canvas for _, canvas in loaded]) if loaded else torch.empty(0)


def _canvas(ref: ImageRef, experiment: Experiment) -> torch.Tensor | None:
    try:
        _, decoded = read_image(ref, experiment.canvas.spec)
    except (BadImage, OSError):
        return None  # the pipeline is going to meet it again, and record it
    return torch.from_numpy(decoded.canvas)


def _correct(experiment: Experiment, model: Classifier, labels: torch.Tensor, canvases: torch.Tensor) -> int:
    if not len(labels):
        return 0
    size = micro_batch(model.device, experiment.chunk_size)
    predicted = predict_batch(model, experiment.views[0], experiment.canvas.spec.field, canvases, size).argmax(dim=1)
    return int((predicted == labels).sum())

"""Transfer evaluation: target models look at stored canvases, and each look becomes a row of `predictions`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import torch
from torch import Tensor

from transforms.attacks.balls import LEVELS
from transforms.canvases import CanvasBatch, read_canvases
from transforms.classes import class_name
from transforms.defense import Defended
from transforms.defenses.grid import Defense
from transforms.held_models import HeldModels, prepare_torch
from transforms.models.batches import in_micro_batches, micro_batch
from transforms.models.classifier import Classifier
from transforms.models.views import VIEWS, look
from transforms.store import Part, Store, predictions_part
from transforms.tables import TOP, failure_row, rows_table


def defend_batch(defense: Defense, pixels: Tensor, device: torch.device, size: int) -> Tensor:
    """Applies a defence to canvases, uint8 (N, 3, S, S), N >= 1, in micro-batches of `size`; returns the same shape."""
    (defended,) = in_micro_batches(lambda items: (defense(pixels[items].to(device)).cpu(),), len(pixels), size)
    return defended


def predict_batch(classifier: Classifier, view: str, field: float, pixels: Tensor, size: int) -> Tensor:
    """Lets a model look at canvases.

    Args:
        field: the part of the images' centre squares that the canvases hold, in (0, 1].
        pixels: uint8 (N, 3, S, S) on the CPU, N >= 1.
        size: images per micro-batch.

    Returns:
        Log-probabilities, float32 (N, classes), on the CPU.
    """

    def work(items: list[int]) -> tuple[Tensor]:
        with torch.inference_mode():
            canvases = pixels[items].to(classifier.device).float() / LEVELS
            return (look(classifier, VIEWS[view], canvases, field).log_softmax(dim=1).cpu(),)

    (log_probabilities,) = in_micro_batches(work, len(pixels), size)
    return log_probabilities


def prediction_rows(
    batch: CanvasBatch, log_probabilities: Tensor, target: int | None, *, all_probabilities: bool
) -> list[dict[str, Any]]:
    """Rows of `predictions`, for the images of which the model's answer is finite.

    `margin` is log p(label) - log p(the most probable other class), natural logarithm: negative where the model is
    wrong. `target` is the class that the attack wanted, if any.
    """
    probabilities = log_probabilities.exp()
    # Of logarithms, because small probabilities are all zero.
    top = log_probabilities.topk(TOP, dim=1).indices
    rows = []
    for item in _finite(log_probabilities).nonzero().flatten().tolist():
        label, predicted = batch.labels[item], int(top[item, 0])
        others = log_probabilities[item].clone()
        others[label] = -torch.inf
        rows.append(
            {
                "image_id": batch.image_ids[item],
                "label": label,
                "predicted": predicted,
                "predicted_name": class_name(predicted),
                "confidence": float(probabilities[item, predicted]),
                "label_confidence": float(probabilities[item, label]),
                "target": target,
                "target_confidence": None if target is None else float(probabilities[item, target]),
                "margin": float(log_probabilities[item, label] - others.max()),
                "correct": predicted == label,
                "top5_labels": top[item].tolist(),
                "top5_confidences": probabilities[item, top[item]].tolist(),
                "probabilities": probabilities[item].tolist() if all_probabilities else None,
            }
        )
    return rows


def _finite(log_probabilities: Tensor) -> Tensor:
    return ~log_probabilities.isnan().any(dim=1)


class Transfer(beam.DoFn):
    """Defended -> (part, rows) for every model and view whose rows are not there yet. No side effects."""

    def __init__(
        self,
        store: Store,
        models: HeldModels,
        targets: Sequence[str],
        views: Sequence[str],
        wanted: Mapping[str, int | None],
        field: float,
        chunk_size: int,
        *,
        all_probabilities: bool,
    ) -> None:
        """`wanted` holds the class that each targeted attack wants, by the attack's name; None for the others."""
        self._store = store
        self._models = models
        self._targets = tuple(targets)
        self._views = tuple(views)
        self._wanted = dict(wanted)
        self._field = field
        self._chunk_size = chunk_size
        self._all_probabilities = all_probabilities

    def setup(self) -> None:
        prepare_torch()

    def process(self, defended: Defended) -> Iterator[tuple[Part, pa.Table]]:
        canvases, defense = defended.canvases, defended.defense
        looks = {
            (model, view): predictions_part(canvases.chunk.index, canvases.attack, model, view, defense.name)
            for model in self._targets
            for view in self._views
        }
        missing = {key: part for key, part in looks.items() if not self._store.has(part)}
        if not missing:
            return
        batch = read_canvases(self._store, canvases)
        if not batch.labels:
            yield from ((part, rows_table("predictions", [])) for part in missing.values())
            return
        size = micro_batch(self._models.device, self._chunk_size)
        pixels = defend_batch(defense, torch.from_numpy(batch.pixels), self._models.device, size)
        for (model, view), part in missing.items():
            log_probabilities = predict_batch(self._models[model], view, self._field, pixels, size)
            silent = [batch.image_ids[item] for item in (~_finite(log_probabilities)).nonzero().flatten().tolist()]
            if silent:
                failures = [failure_row(each, "FloatingPointError", "the model's answer is NaN") for each in silent]
                yield Part("failures", part.chunk, ("predict", *part.keys)), rows_table("failures", failures)
            target = self._wanted.get(canvases.attack)
            rows = prediction_rows(batch, log_probabilities, target, all_probabilities=self._all_probabilities)
            yield part, rows_table("predictions", rows)


class WriteParts(beam.DoFn):
    """(part, rows) -> the part, once it is published. Idempotent."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def process(self, element: tuple[Part, pa.Table]) -> Iterator[Part]:
        part, rows = element
        self._store.publish(part, rows)
        yield part

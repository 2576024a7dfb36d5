"""Answers: what models say of canvases behind a defence, each time that it is drawn."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from transforms.data.outcomes import TOP, Answered
from transforms.data.pixels import WHITE, CanvasBatch, Pixels
from transforms.defenses.defense import Defense
from transforms.models.batches import in_micro_batches
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions
from transforms.models.views import VIEWS, look
from transforms.randomness import Draws

Look = tuple[str, str]
"""A model's name, and a view."""

Timed = Callable[[str, int], AbstractContextManager[None]]
"""Notes how long a body takes: ("defend" or "predict", canvases)."""


def defend_batch(defense: Defense, batch: CanvasBatch, repeat: int, conditions: Conditions) -> Tensor:
    """Applies a defence to canvases, at least one.

    Args:
        repeat: what a random defence draws depends on it, the seed and the image, and on nothing else: an image is
            treated alike whatever was done to it before.

    Returns:
        uint8 (N, 3, S, S), on the CPU.
    """
    pixels, device = torch.from_numpy(batch.pixels), conditions.place

    def work(items: list[int]) -> tuple[Tensor]:
        draws = Draws(conditions.seed, defense.name, [batch.image_ids[item] for item in items]).at("repeat", repeat)
        return (defense(pixels[items].to(device), draws).cpu(),)

    (defended,) = in_micro_batches(work, len(pixels), conditions.micro_batch)
    return defended


def predict_batch(classifier: Classifier, view: str, pixels: Tensor, conditions: Conditions) -> Tensor:
    """Lets a model look at canvases.

    Args:
        pixels: uint8 (N, 3, S, S) on the CPU, N >= 1.

    Returns:
        Log-probabilities, float32 (N, classes), on the CPU.
    """

    def work(items: list[int]) -> tuple[Tensor]:
        with torch.inference_mode():
            canvases = pixels[items].to(classifier.device).float() / WHITE
            return (look(classifier, VIEWS[view], canvases, conditions.field_of_view).log_softmax(dim=1).cpu(),)

    (log_probabilities,) = in_micro_batches(work, len(pixels), conditions.micro_batch)
    return log_probabilities


def most_probable(classifier: Classifier, pixels: Pixels, conditions: Conditions) -> list[int | None]:
    """The class that a model takes each canvas for, looking at its centre; None where its answer is not a number.

    Args:
        pixels: uint8 (N, 3, S, S), N >= 1.
    """
    answers = predict_batch(classifier, "center", torch.from_numpy(pixels), conditions)
    return [None if bool(each.isnan().any()) else int(each.argmax()) for each in answers]


def highest(values: Tensor, count: int) -> Tensor:
    """The classes of the largest values, in their order, of equal ones the lower class first, as argmax has it.

    Args:
        values: (N, classes), without NaN where it matters.

    Returns:
        int64 (N, count). (torch's topk leaves the order of equal values open.)
    """
    return values.sort(dim=1, descending=True, stable=True).indices[:, :count]


class Answers:
    """Sums up what a model says of N images each time that a random defence is drawn; once, where nothing is random."""

    def __init__(self, labels: Sequence[int]) -> None:
        self._labels = torch.tensor(labels).unsqueeze(1)
        self._summed = torch.tensor(-torch.inf, dtype=torch.float64)
        self._label_confidences: list[Tensor] = []
        self._choices: list[Tensor] = []

    def add(self, log_probabilities: Tensor) -> None:
        """One more answer, float32 (N, classes)."""
        self._summed = torch.logaddexp(self._summed, log_probabilities.double())
        self._label_confidences.append(log_probabilities.gather(1, self._labels).exp())
        self._choices.append(log_probabilities.argmax(dim=1))

    def summed_up(self) -> Answered:
        """All answers so far, at least one. Probabilities are averaged over them."""
        log_probabilities = (self._summed - math.log(len(self._choices))).float()
        spread = None
        if len(self._choices) > 1:
            # Image by image: a reduction over a larger tensor may differ in the last bit.
            spread = torch.stack([each.std() for each in torch.cat(self._label_confidences, dim=1)]).numpy()
        return Answered(
            log_probabilities.numpy(),
            log_probabilities.exp().numpy(),
            # By logarithms, because small probabilities are all zero.
            highest(log_probabilities, TOP).numpy(),
            spread,
            torch.stack(self._choices).numpy(),
            (~log_probabilities.isnan().any(dim=1)).numpy(),
        )


def _untimed(_work: str, _count: int) -> AbstractContextManager[None]:
    return nullcontext()


def ask(
    looks: Mapping[Look, Classifier],
    defense: Defense,
    batch: CanvasBatch,
    conditions: Conditions,
    timed: Timed = _untimed,
) -> dict[Look, Answered]:
    """What each model, in each view, says of canvases behind a defence, as often as that is drawn.

    Args:
        looks: the models by their names and views.
        batch: at least one canvas.
    """
    answers = {each: Answers(batch.labels) for each in looks}
    for repeat in range(defense.repeats):
        with timed("defend", len(batch.labels)):
            pixels = defend_batch(defense, batch, repeat, conditions)
        for each, classifier in looks.items():
            with timed("predict", len(batch.labels)):
                answers[each].add(predict_batch(classifier, each[1], pixels, conditions))
    return {each: some.summed_up() for each, some in answers.items()}

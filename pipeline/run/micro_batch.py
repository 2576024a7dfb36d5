"""The micro-batch of a run with `numerics: fast`: found by timing before the run, and recorded."""

import time
from collections.abc import Callable

import torch

from transforms.errors import out_of_memory
from transforms.models.classifier import Classifier

_GAIN = 1.05
"""By which twice as many images at once must be quicker, each."""


def quickest(seconds: Callable[[int], float], most: int) -> int:
    """The number of images at once that takes least time for each, among powers of two and `most`.

    It is doubled as long as that makes an image 5 % quicker, and memory lasts.

    Args:
        seconds: that so many images take; raises torch's error of lacking memory where there are too many.
        most: images at once that are allowed, >= 1.
    """
    best, per_image = 1, seconds(1)
    while best < most:
        doubled = min(2 * best, most)
        try:
            took = seconds(doubled) / doubled
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return best
        if took * _GAIN > per_image:
            return best
        best, per_image = doubled, took
    return best


def seconds_of_a_gradient(classifier: Classifier, count: int) -> float:
    """How long the gradients of so many grey windows take, at their quickest: the first time compiles."""
    return min(_seconds(classifier, count) for _ in range(4))


def _seconds(classifier: Classifier, count: int) -> float:
    side = classifier.preprocessing.input_size
    windows = torch.full((count, 3, side, side), 0.5, device=classifier.device, requires_grad=True)
    started = time.perf_counter()
    (gradients,) = torch.autograd.grad(classifier(windows).log_softmax(dim=1)[:, 0].sum(), windows)
    gradients.sum().item()  # waits for the device
    return time.perf_counter() - started

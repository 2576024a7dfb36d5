"""Agreement: whether another engine answers as torch does."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.errors import InputError, out_of_memory, said_by
from transforms.models.classifier import Classifier
from transforms.models.probes import probes

AGREEMENT = 1e-4
"""Largest difference of a probability."""
COSINE = 0.999
"""Least cosine of the angle between two gradients.

A ReLU's input next to 0 falls on one side or the other by its last bit: torch's own gradients of EfficientNet-Lite, in
float32 and in float64, have cosines from 0.9997 to 1.
"""
_PROBES = 8
_LEAST = 1e-300
_STEEP = 2
"""Probes whose gradients are taken."""


@contextmanager
def running(engine: str, instead: str) -> Iterator[None]:
    """Turns whatever an engine raises over a network into one line, an InputError; lack of memory goes through.

    Args:
        instead: what a user can give, such as `gradients: torch`.
    """
    try:
        yield
    except Exception as error:  # compilers, exporters and tracers say in many ways that they cannot
        if out_of_memory(error):
            raise
        raise InputError(f"{engine} cannot run this network ({said_by(error)}); give {instead}") from None


def disagreement(plain: Classifier, other: Classifier, within: float = AGREEMENT) -> str | None:
    """In what another engine's answers to some probes differ from torch's, in words; None where they agree.

    They agree if all labels are the same, and no probability differs by more than `within`.
    """
    windows = probes(_PROBES, plain.preprocessing.input_size).to(plain.device)
    with torch.inference_mode():
        first, second = (each(windows).softmax(dim=1) for each in (plain, other))
    labels = int((first.argmax(dim=1) != second.argmax(dim=1)).sum())
    farthest = float((first - second).abs().max())
    if labels:
        return f"{labels} of {_PROBES} labels differ"
    return None if farthest <= within else f"probabilities differ by up to {farthest:.2g}"


def steepness_apart(plain: Classifier, other: Classifier, least_cosine: float = COSINE) -> str | None:
    """By how much another engine's gradients of some probes differ from torch's, in words; None where they agree.

    They agree if the angle between any two has a cosine of `least_cosine` at least.
    """
    windows = probes(_STEEP, plain.preprocessing.input_size).to(plain.device)
    # Gradients of a network that has not been trained may be as short as 1e-9.
    first, second = (F.normalize(_gradients(each, windows).double(), eps=_LEAST) for each in (plain, other))
    least = float((first * second).sum(dim=1).min())
    return None if least >= least_cosine else f"gradients differ, the cosine of their angle is {least:.4f}"


def _gradients(classifier: Classifier, windows: Tensor) -> Tensor:
    """Of the log-probability of the first class, (B, pixels): steep wherever the network is not sure of it."""
    windows = windows.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(classifier(windows).log_softmax(dim=1)[:, 0].sum(), windows)
    return gradients.flatten(1)

"""Views: how a model looks at a canvas.

A view cuts a canvas into windows. One window gives the model's logits; the probabilities of several are averaged.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from transforms.models.classifier import Classifier

View = Callable[[Tensor, int], tuple[Tensor, ...]]
"""(canvases (B, 3, S, S), window side w <= S) -> windows, each (B, 3, w, w)."""


def center(canvases: Tensor, window: int) -> tuple[Tensor, ...]:
    """The central window."""
    margin = (canvases.shape[-1] - window) // 2
    return (canvases[..., margin : margin + window, margin : margin + window],)


VIEWS: dict[str, View] = {"center": center}


def look(classifier: Classifier, view: View, canvases: Tensor, field: float) -> Tensor:
    """Shows canvases to a classifier through a view.

    Args:
        canvases: float (B, 3, S, S) in [0, 1].
        field: the part of the image's centre square that the canvases hold, in (0, 1].

    Returns:
        (B, classes) logits, up to a constant per row: their softmax is the model's probabilities, averaged over
        the view's windows. Differentiable.
    """
    windows = view(canvases, classifier.preprocessing.window(canvases.shape[-1], field))
    logits: list[Tensor] = [classifier(window) for window in windows]
    if len(logits) == 1:
        return logits[0]
    log_probabilities = torch.stack([one.log_softmax(dim=1) for one in logits])
    averaged: Tensor = log_probabilities.logsumexp(dim=0) - math.log(len(logits))
    return averaged

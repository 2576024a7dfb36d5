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


def ten_crop(canvases: Tensor, window: int) -> tuple[Tensor, ...]:
    """The four corners and the centre, and their mirror images (Krizhevsky et al. 2012, §4.1)."""
    far = canvases.shape[-1] - window
    corners = [canvases[..., y : y + window, x : x + window] for y in (0, far) for x in (0, far)]
    crops = (*corners, *center(canvases, window))
    return (*crops, *(crop.flip(-1) for crop in crops))


VIEWS: dict[str, View] = {"center": center, "ten-crop": ten_crop}


def windows(view: View) -> int:
    """How many windows a view shows of a canvas."""
    return len(view(torch.empty(0, 3, 1, 1), 1))


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

"""Views: how a model looks at a canvas.

A view cuts a canvas into windows. One window gives the model's logits; the probabilities of several are averaged.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from transforms.models.classifier import Classifier

View = Callable[[Tensor, int], tuple[Tensor, ...]]
"""(canvases (B, 3, S, S), window side w <= S) -> square windows, each cut out of the canvas: (B, 3, v, v), v <= S.

v is w, but where a view says otherwise; a classifier resizes what it is shown to its input."""


def center(canvases: Tensor, window: int) -> tuple[Tensor, ...]:
    """The central window; nothing is averaged."""
    margin = (canvases.shape[-1] - window) // 2
    return (canvases[..., margin : margin + window, margin : margin + window],)


def five_crop(canvases: Tensor, window: int) -> tuple[Tensor, ...]:
    """The four corners and the centre, probabilities averaged."""
    far = canvases.shape[-1] - window
    return (*_at_crossings(canvases, window, 0, far), *center(canvases, window))


def ten_crop(canvases: Tensor, window: int) -> tuple[Tensor, ...]:
    """The five crops and their mirror images, probabilities averaged (Krizhevsky et al. 2012, §4.1)."""
    crops = five_crop(canvases, window)
    return (*crops, *(crop.flip(-1) for crop in crops))


def multi_scale(canvases: Tensor, window: int) -> tuple[Tensor, ...]:
    """The centre at 7/8, 1 and 9/8 of its size, probabilities averaged (Simonyan & Zisserman 2015, §4.2).

    arXiv:1409.1556 tests images at the scales S - 32, S and S + 32; the fractions are those of S = 256. A smaller
    picture fits a wider part of itself into the same window: here the windows are w * 8/7, w and w * 8/9 wide. Of a
    canvas that is not wide enough (`problem` says so) the first shows all there is.
    """
    sides = (min(_widest(window), canvases.shape[-1]), window, round(window * 8 / 9))
    return tuple(crop for side in sides for crop in center(canvases, side))


def saccades(canvases: Tensor, window: int) -> tuple[Tensor, ...]:
    """Five fixations, each on two thirds of the centre's window, probabilities averaged (Luo et al. 2015).

    arXiv:1511.06292 looks at adversarial images through crops at other places and scales; these are ours. The fixations
    are the centre and the four points a third of the canvas away from two sides. Windows ceil(2 w / 3) wide around them
    stay within the canvas, up to half a pixel of rounding that moves them inwards.
    """
    side = math.ceil(2 * window / 3)
    near = (canvases.shape[-1] - window) // 3
    far = canvases.shape[-1] - side - near
    return (*center(canvases, side), *_at_crossings(canvases, side, near, far))


VIEWS: dict[str, View] = {
    "center": center,
    "five-crop": five_crop,
    "ten-crop": ten_crop,
    "multi-scale": multi_scale,
    "saccades": saccades,
}


def windows(view: View) -> int:
    """How many windows a view shows of a canvas."""
    return len(view(torch.empty(0, 3, 1, 1), 1))


def problem(view: str, side: int, window: int) -> str | None:
    """Why a view makes no sense of canvases of `side` pixels for a model whose window is `window` wide, in one line.

    Several windows that are the same picture, or not the scales that they stand for, would be measured under a wrong
    name. None if all is well. (A model that was evaluated on whole pictures, with `Preprocessing.field_of_view` 1, is
    shown the whole of any canvas: for it no canvas is wide enough.)
    """
    # By a single pixel the centre would be a corner again.
    needed = {"five-crop": window + 2, "ten-crop": window + 2, "multi-scale": _widest(window)}.get(view, window)
    if side >= needed:
        return None
    return (
        f"{view} needs a canvas of at least {needed} pixels for a model that looks at {window}, not {side}; "
        f"give canvas.crop more, say {max(256, math.ceil(needed / 32) * 32)}"
    )


def _at_crossings(canvases: Tensor, side: int, near: int, far: int) -> list[Tensor]:
    """Four windows, whose upper left corners are at the crossings of two rows and two columns."""
    return [canvases[..., y : y + side, x : x + side] for y in (near, far) for x in (near, far)]


def _widest(window: int) -> int:
    return round(window * 8 / 7)


def look(classifier: Classifier, view: View, canvases: Tensor, field_of_view: float) -> Tensor:
    """Shows canvases to a classifier through a view.

    Args:
        canvases: float (B, 3, S, S) in [0, 1].
        field_of_view: the part of the image's centre square that the canvases hold, in (0, 1].

    Returns:
        (B, classes) logits, up to a constant per row: their softmax is the model's probabilities, averaged over
        the view's windows. Differentiable.
    """
    windows = view(canvases, classifier.preprocessing.window(canvases.shape[-1], field_of_view))
    return averaged([classifier(window) for window in windows])


def averaged(logits: Sequence[Tensor]) -> Tensor:
    """Logits of averaged probabilities, up to a constant per row: (B, classes), of as many; of one, itself."""
    if len(logits) == 1:
        return logits[0]
    log_probabilities = torch.stack([one.log_softmax(dim=1) for one in logits])
    return log_probabilities.logsumexp(dim=0) - math.log(len(logits))

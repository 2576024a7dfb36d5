"""Momentum: how gradients of earlier steps accumulate. Each function returns a maker of a fresh memory for a run."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Momentum = Callable[[Tensor], Tensor]
"""A step's gradient (B, 3, S, S) -> what is accumulated so far, same shape."""


def no_momentum() -> Momentum:
    """Follows the gradient alone."""
    return lambda gradient: gradient


def mean_normalized(gradient: Tensor) -> Tensor:
    """Each image's gradient divided by its mean magnitude; a zero gradient stays zero."""
    tiny = torch.finfo(gradient.dtype).tiny
    return gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=tiny)


def momentum(decay: float, *, normalized: bool = True) -> Callable[[], Momentum]:
    """g <- decay * g + gradient / mean |gradient|, per image (Dong et al. 2018, arXiv:1710.06081, eq. 6).

    Without `normalized`, gradients are added as they are.
    """
    return partial(_Momentum, decay, mean_normalized if normalized else None)


def adam(first: float, second: float, stabilizer: float) -> Callable[[], Momentum]:
    """Adam's update direction (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), of about unit size per value."""
    return partial(_Adam, first, second, stabilizer)


class _Momentum:
    def __init__(self, decay: float, weigh: Callable[[Tensor], Tensor] | None) -> None:
        self._decay = decay
        self._weigh = weigh
        self._accumulated: Tensor | None = None

    def __call__(self, gradient: Tensor) -> Tensor:
        weighed = gradient if self._weigh is None else self._weigh(gradient)
        self._accumulated = weighed if self._accumulated is None else self._decay * self._accumulated + weighed
        return self._accumulated


class _Adam:
    def __init__(self, first: float, second: float, stabilizer: float) -> None:
        self._rates = (first, second)
        self._stabilizer = stabilizer
        self._mean: Tensor | float = 0.0
        self._square: Tensor | float = 0.0
        self._steps = 0

    def __call__(self, gradient: Tensor) -> Tensor:
        first, second = self._rates
        self._steps += 1
        self._mean = first * self._mean + (1 - first) * gradient
        self._square = second * self._square + (1 - second) * gradient**2
        mean, square = self._mean / (1 - first**self._steps), self._square / (1 - second**self._steps)
        return mean / (square.sqrt() + self._stabilizer)

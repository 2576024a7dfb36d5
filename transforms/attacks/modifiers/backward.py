"""Functions with a gradient of their own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Returned(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        context.change = change
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.change(gradients[0]), None


def returned(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The tensor itself, through which a gradient flows back changed."""
    changed: Tensor = _Returned.apply(tensor, change)
    return changed


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """The tensor itself, through which a gradient flows back times a factor."""
    return returned(tensor, lambda gradient: factor * gradient)


def with_slope_of(value: Tensor, other: Tensor) -> Tensor:
    """A value that has the gradient of another tensor of its shape."""
    return value.detach() + (other - other.detach())

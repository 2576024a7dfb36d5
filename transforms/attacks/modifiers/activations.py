"""Modifiers of ReLUs and max pooling."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.modifiers.backward import returned, with_slope_of
from transforms.attacks.modifiers.modifier import Modifier, Place
from transforms.ranges import above, within


def linbp(*, start: float = 0.5) -> Modifier:
    """Linear backpropagation: gradients flow back as if later ReLUs were not there.

    What flows back through the layers of a residual block keeps the length that it would have with its ReLUs.

    Args:
        start: the share of the ReLUs, from the input, that stay; those behind a residual sum stay anyway.
    """
    within("[0, 1)", start=start)

    def linear(point: Tensor, place: Place) -> Tensor:
        if place.number < start * place.of:
            return place.original(point)
        memory = place.memory
        memory["linear"] = True
        inside = (point > 0) & (point < place.arguments["ceiling"])
        back = returned(point, lambda gradient: gradient * inside if memory.get("exact") else gradient)
        return with_slope_of(place.original(point), back)

    def as_long(residual: Tensor, place: Place) -> Tensor:
        memory, block = place.memory, place.block
        if block is None or not memory.pop("linear", False):
            return residual

        def through(gradient: Tensor, *, exact: bool) -> Tensor:
            memory["exact"] = exact
            (arrived,) = torch.autograd.grad(residual, block, gradient, retain_graph=True)
            memory["exact"] = False
            length: Tensor = arrived.flatten(1).norm(dim=1)
            return length

        def scaled(gradient: Tensor) -> Tensor:
            ratio = through(gradient, exact=True) / through(gradient, exact=False)
            return gradient * ratio.nan_to_num(0, 0, 0).view(-1, *[1] * (gradient.dim() - 1))

        return returned(residual, scaled)

    return Modifier("Guo et al. 2020, arXiv:2012.03528", {"relu": linear, "residual": as_long}, optional=("residual",))


def bpa(*, start: float = 0.5, temperature: float = 10.0) -> Modifier:
    """Backward propagation attack: gradients flow back through SiLUs and soft pools in place of later ReLUs, max pools.

    Args:
        start: the share of the ReLUs, from the input, that stay; those behind a residual sum stay anyway.
        temperature: what the softmax's values are multiplied by.
    """
    within("[0, 1)", start=start)
    above(0, temperature=temperature)

    def smooth(point: Tensor, place: Place) -> Tensor:
        if place.number < start * place.of:
            return place.original(point)
        ceiling = place.arguments["ceiling"]
        capped = F.silu(point) - F.silu(point - ceiling) if ceiling < torch.inf else F.silu(point)
        return with_slope_of(place.original(point), capped)

    def softened(point: Tensor, place: Place) -> Tensor:
        value = place.original(point)
        height, width = value.shape[-2:]
        return with_slope_of(value, _mean_pooled(point, (height, width), temperature, **place.arguments))

    return Modifier(
        "Wang et al. 2023, arXiv:2306.12685", {"relu": smooth, "max pool": softened}, optional=("max pool",)
    )


def _mean_pooled(
    point: Tensor,
    size: tuple[int, int],
    temperature: float,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    **_: Any,
) -> Tensor:
    """Means of a pool's windows, (B, C, *size), weighed by softmax; their weights count as constants. Beyond the border
    there are zeros."""
    kernel, padded, spread = _pair(kernel_size), _pair(padding), _pair(dilation)
    step = _pair(stride) if stride else kernel
    # A pool that rounds its size up looks beyond the lower right border.
    missing = [
        max(0, (size[axis] - 1) * step[axis] + spread[axis] * (kernel[axis] - 1) + 1 - side - 2 * padded[axis])
        for axis, side in enumerate(point.shape[-2:])
    ]
    point = F.pad(point, (padded[1], padded[1] + missing[1], padded[0], padded[0] + missing[0]))
    windows = F.unfold(point, kernel, spread, stride=step).view(*point.shape[:2], kernel[0] * kernel[1], -1)
    means = (windows * (temperature * windows).softmax(dim=2).detach()).sum(dim=2)
    across = (point.shape[-1] - spread[1] * (kernel[1] - 1) - 1) // step[1] + 1
    return means.view(*point.shape[:2], -1, across)[..., : size[0], : size[1]]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


MODIFIERS: dict[str, Callable[..., Modifier]] = {"linbp": linbp, "bpa": bpa}

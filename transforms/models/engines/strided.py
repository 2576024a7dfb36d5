"""Gradients in bfloat16 of a network that torch runs, without the one kernel that is no use there.

oneDNN's gradient of a depthwise convolution of stride 2 takes twenty times as long as four convolutions of stride 1
that compute the same; on EfficientNet-Lite0, more than half of a step.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from transforms.models.device import is_emulated
from transforms.models.engines.fused_convolution import Convolution, Phases, pair


class QuickStrides(TorchFunctionMode):
    """While it is entered, such convolutions of its thread have the quicker gradient, of their input alone.

    What they answer stays as it is, bit for bit, and no module is touched.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            return _convolved(*args, **kwargs)
        return func(*args, **kwargs)


def _convolved(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    phases = None
    dtype = torch.get_autocast_dtype("cpu")
    reduced = dtype == torch.bfloat16 and not is_emulated("bf16", input.device)
    followed = input.requires_grad and not weight.requires_grad and input.dim() == _BATCHED
    if reduced and followed and pair(stride) == (2, 2) and not isinstance(padding, str):  # spares others the copy
        weights = weight.detach().to(dtype)
        sizes = (2, 2), pair(padding), pair(dilation), groups
        phases = Phases.of(Convolution(weights, weights.new_zeros(len(weights)), *sizes))
    if phases is None:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    answer: Tensor = _Strided.apply(input.to(dtype), phases, weight, bias, *sizes)
    return answer


_BATCHED = 4
"""Dimensions of pictures (B, C, H, W)."""


class _Strided(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, pictures: Tensor, phases: Phases, *convolution: Any) -> Tensor:
        context.phases, context.size, context.stride = phases, pictures.shape, pictures.stride()
        return F.conv2d(pictures, *convolution)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        wanted = context.phases(gradient, gradient.new_empty_strided(context.size, context.stride))
        return (wanted, *[None] * (len(context.needs_input_grad) - 1))

"""A convolution with its zero padding, batch norm and ReLU as one kernel of oneDNN, differentiable in its input.

In evaluation mode a batch norm is a linear map, so it is folded into the weights of the convolution before it. The
kernel applies the activation while its result is still in the cache. The backward pass computes the gradient of the
input alone, and needs nothing of the forward pass but where the activation cut off. Under autocast in bfloat16, all of
it is done in bfloat16 where the processor has instructions for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from transforms.models.device import is_emulated

Activation = Literal["none", "relu", "relu6"]
_POST_OPS: dict[Activation, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}
_SIX = 6.0
Pair = tuple[int, int]


def pair(value: int | Sequence[int]) -> Pair:
    """What torch takes for both axes, or for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


_ONE: Pair = (1, 1)
_TWO: Pair = (2, 2)


@dataclass(frozen=True)
class Convolution:
    """What is to become one kernel.

    Attributes:
        weight: float32 or bfloat16 (out, in / groups, h, w).
        bias: the same (out,).
        stride, padding, dilation: vertical and horizontal, pixels; as many zeros on either side.
        groups: as of `torch.nn.Conv2d`.
        activation: what follows it.
    """

    weight: Tensor
    bias: Tensor
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    activation: Activation = "none"

    def padded(self, left: int, right: int, top: int, bottom: int) -> "Convolution | None":
        """The same behind a zero padding; None where it cannot be had.

        A padding wider by one on the right and at the bottom, as TensorFlow's SAME has it, becomes an even one of a
        kernel with one more row and column of zeros.
        """
        more_down, more_right = bottom - top, right - left
        if (more_down, more_right) not in {(0, 0), (1, 1)} or min(left, top) < 0 or self.padding != (0, 0):
            return None
        if more_down and self.dilation != _ONE:
            return None
        weight = F.pad(self.weight, (more_right, 0, more_down, 0))
        return replace(self, weight=weight, padding=(bottom, right))

    def normalized(self, norm: nn.BatchNorm2d) -> "Convolution":
        """The same with a batch norm in evaluation mode folded in."""
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale, shift = (variance + norm.eps).rsqrt(), torch.zeros_like(mean)
        if norm.affine:
            scale, shift = scale * norm.weight, norm.bias
        return replace(self, weight=self.weight * scale.view(-1, 1, 1, 1), bias=(self.bias - mean) * scale + shift)

    @property
    def transposed(self) -> "Convolution | None":
        """Maps the gradient of the output to that of the input; None where no convolution of this kind does.

        With a stride of 1 it is one with mirrored kernels, whose inputs and outputs have changed places. The kernel of
        a forward pass is quicker than the one that libraries have for gradients.
        """
        reach = [dilation * (side - 1) for dilation, side in zip(self.dilation, self.weight.shape[2:], strict=True)]
        padding = (reach[0] - self.padding[0], reach[1] - self.padding[1])
        if self.stride != _ONE or min(padding) < 0:
            return None
        groups = self.weight.flip(2, 3).chunk(self.groups)  # (out / groups, in / groups, h, w) each
        weight = torch.cat([each.transpose(0, 1) for each in groups])
        return Convolution(weight, torch.zeros_like(weight[:, 0, 0, 0]), _ONE, padding, self.dilation, self.groups)

    @property
    def phases(self) -> "list[tuple[Pair, Convolution]] | None":
        """Maps the gradient of the output to that of the input, where the stride is 2 and each channel is for itself.

        Every second row and column of the input's gradient is a convolution of a stride of 1: four of them, each with
        its first row and column. None where the gradient is no such four.
        """
        depthwise = self.groups == len(self.weight) and self.weight.shape[1] == 1
        if self.stride != _TWO or self.dilation != _ONE or not depthwise:
            return None
        return [((row, column), self._phase(row, column)) for row, column in product(range(2), repeat=2)]

    def _phase(self, row: int, column: int) -> "Convolution":
        (down, rows), (right, columns) = (
            _reaches(first, side, padding)
            for first, side, padding in zip((row, column), self.weight.shape[2:], self.padding, strict=True)
        )
        weight = self.weight.new_zeros(len(self.weight), 1, 2 * down + 1, 2 * right + 1)
        for (to_row, from_row), (to_column, from_column) in product(rows, columns):
            weight[:, :, to_row, to_column] = self.weight[:, :, from_row, from_column]
        return Convolution(weight, torch.zeros_like(self.bias), _ONE, (down, right), _ONE, self.groups)

    def to(self, dtype: torch.dtype) -> "Convolution":
        """The same in another precision."""
        return replace(self, weight=self.weight.to(dtype), bias=self.bias.to(dtype))


def _reaches(first: int, side: int, padding: int) -> tuple[int, list[Pair]]:
    """Along one axis: what of a kernel of `side` meets every second value of the input, from the `first` on.

    Input 2 m + first meets output m + reach by the kernel's value 2 reach = first + padding - place.

    Returns:
        The farthest reach, and for each value its place in a kernel of twice that and one, and in the whole kernel.
    """
    reaches = {place: (first + padding - place) // 2 for place in range(side) if (first + padding - place) % 2 == 0}
    farthest = max(map(abs, reaches.values()), default=0)
    return farthest, [(reach + farthest, place) for place, reach in reaches.items()]


class FusedConvolution(nn.Module):
    """A `Convolution` as one kernel: (B, in, H, W) -> (B, out, H', W'), both best channels last, in its weights' dtype.

    Attributes:
        owns_gradient: whether nobody else holds the gradient of its output, so that it may be changed in place.
    """

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self._forward = _Kernel(convolution)
        transposed = convolution.transposed
        self._backward = None if transposed is None else _Kernel(transposed)
        # oneDNN's gradient in bfloat16 takes twenty times as long as these; in float32 they take as long.
        self._phases = Phases.of(convolution) if convolution.weight.dtype == torch.bfloat16 else None
        self._activation = convolution.activation
        self.owns_gradient = False

    def forward(self, pictures: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            if dtype == torch.bfloat16 and not is_emulated("bf16", pictures.device):
                return self._in_bf16.with_gradient(pictures.to(dtype))
            return self._plain(pictures)  # Which layers a reduced precision is good for is torch's to say.
        return self.with_gradient(pictures)

    @cached_property
    def _in_bf16(self) -> "FusedConvolution":
        reduced = FusedConvolution(self._forward.convolution.to(torch.bfloat16))
        reduced.owns_gradient = self.owns_gradient
        return reduced

    def with_gradient(self, pictures: Tensor) -> Tensor:
        """The output, through which autograd finds the gradient of the input where it is wanted."""
        if torch.is_grad_enabled() and pictures.requires_grad:
            return cast(Tensor, _WithGradient.apply(pictures, self))
        return self.output(pictures)

    def output(self, pictures: Tensor) -> Tensor:
        """The forward pass alone."""
        return self._forward(pictures)

    def _plain(self, pictures: Tensor) -> Tensor:
        sums = self._forward.sums(pictures)
        if self._activation == "none":
            return sums
        return F.relu(sums) if self._activation == "relu" else F.relu6(sums)

    @property
    def cuts(self) -> bool:
        """Whether the activation lets less than all gradients through."""
        return self._activation != "none"

    def input_gradient(self, gradient: Tensor, output: Tensor | None, shape: torch.Size) -> Tensor:
        """The gradient of the input.

        Args:
            gradient: of the output, (B, out, H', W').
            output: the output, if the activation `cuts`.
            shape: of the input, (B, in, H, W).
        """
        if output is not None:
            gradient = self._let_through(gradient, output)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if self._backward is not None:
            return self._backward(gradient)
        if self._phases is not None:
            return self._phases(gradient, torch.empty(shape, dtype=gradient.dtype, memory_format=torch.channels_last))
        return self._forward.input_gradient(gradient, shape)

    def _let_through(self, gradient: Tensor, output: Tensor) -> Tensor:
        into = gradient if self.owns_gradient else torch.empty_like(output)
        if self._activation == "relu":
            torch.ops.aten.threshold_backward.grad_input(gradient, output, 0.0, grad_input=into)
        else:
            torch.ops.aten.hardtanh_backward.grad_input(gradient, output, 0.0, _SIX, grad_input=into)
        return into


class _Kernel:
    """oneDNN's convolution with an activation, without gradients."""

    def __init__(self, convolution: Convolution) -> None:
        weight = convolution.weight.detach().contiguous(memory_format=torch.channels_last)
        self.convolution = replace(convolution, weight=weight, bias=convolution.bias.detach())
        self._sizes = convolution.stride, convolution.padding, convolution.dilation, convolution.groups
        self._post_op = _POST_OPS[convolution.activation]
        self._arranged: Tensor | None = None

    def __call__(self, pictures: Tensor) -> Tensor:
        stride, padding, dilation, groups = self._sizes
        if self._arranged is None:
            # As oneDNN wants the weights, which it would otherwise arrange anew for each batch: 4 % of a step on Lite0.
            self._arranged = torch.ops.mkldnn._reorder_convolution_weight(
                self.convolution.weight, padding, stride, dilation, groups, pictures.shape
            )
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(
            pictures, self._arranged, self.convolution.bias, padding, stride, dilation, groups, *self._post_op, ""
        )
        return output

    def sums(self, pictures: Tensor) -> Tensor:
        """The convolution alone, by torch's own function, whose gradients autograd knows."""
        return F.conv2d(pictures, self.convolution.weight, self.convolution.bias, *self._sizes)

    def input_gradient(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of the input, of a `shape`, from that of the sums before the activation."""
        weight, (stride, padding, dilation, groups) = self.convolution.weight, self._sizes
        # Values of the input are asked for by gradients of weights alone.
        like = torch.empty(shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        wanted: Tensor
        wanted, _, _ = torch.ops.aten.convolution_backward(
            gradient, like, weight, None, stride, padding, dilation, False, (0, 0), groups, (True, False, False)
        )
        return wanted


class Phases:
    """The gradient of a convolution's input, every second row and column at a time (see `Convolution.phases`)."""

    def __init__(self, phases: list[tuple[Pair, Convolution]]) -> None:
        self._kernels = [(first, _Kernel(each)) for first, each in phases]

    @classmethod
    def of(cls, convolution: Convolution) -> "Phases | None":
        """Those of a convolution; None where its gradient has none."""
        phases = convolution.phases
        return None if phases is None else cls(phases)

    def __call__(self, gradient: Tensor, wanted: Tensor) -> Tensor:
        """Fills in the gradient of the input, `wanted` (B, C, H, W), from that of the output, channels last."""
        rows, columns = ((side + 1) // 2 for side in wanted.shape[2:])
        more = max(columns - gradient.shape[3], 0), max(rows - gradient.shape[2], 0)
        if any(more):  # the last rows and columns of an input that was padded, or that is wider than what was looked at
            gradient = F.pad(gradient, (0, more[0], 0, more[1]))
        for (row, column), kernel in self._kernels:
            every_second = wanted[:, :, row::2, column::2]
            every_second.copy_(kernel(gradient)[:, :, : every_second.shape[2], : every_second.shape[3]])
        return wanted


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, pictures: Tensor, module: FusedConvolution) -> Tensor:
        output = module.output(pictures)
        context.module, context.shape = module, pictures.shape
        if module.cuts:
            context.save_for_backward(output)
        return output

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (output,) = context.saved_tensors or (None,)
        return context.module.input_gradient(gradients[0], output, context.shape), None

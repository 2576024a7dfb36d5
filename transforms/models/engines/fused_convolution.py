"""A convolution with its zero padding, batch norm and ReLU as one kernel of oneDNN, differentiable in its input.

In evaluation mode a batch norm is a linear map, so it is folded into the weights of the convolution before it. The
kernel applies the activation while its result is still in the cache. The backward pass computes the gradient of the
input alone, and needs nothing of the forward pass but where the activation cut off.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Activation = Literal["none", "relu", "relu6"]
_POST_OPS: dict[Activation, tuple[str, list[float]]] = {
    "none": ("none", []),
    "relu": ("relu", []),
    "relu6": ("hardtanh", [0.0, 6.0]),
}
_SIX = 6.0
Pair = tuple[int, int]
_ONE: Pair = (1, 1)


@dataclass(frozen=True)
class Convolution:
    """What is to become one kernel.

    Attributes:
        weight: float32 (out, in / groups, h, w).
        bias: float32 (out,).
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


class FusedConvolution(nn.Module):
    """A `Convolution` as one kernel: float32 (B, in, H, W) -> float32 (B, out, H', W'), both best channels last.

    Attributes:
        owns_gradient: whether nobody else holds the gradient of its output, so that it may be changed in place.
    """

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self._forward = _Kernel(convolution)
        transposed = convolution.transposed
        self._backward = None if transposed is None else _Kernel(transposed)
        self._activation = convolution.activation
        self.owns_gradient = False

    def forward(self, pictures: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            return self._plain(pictures)  # Which layers a reduced precision is good for is torch's to say.
        if torch.is_grad_enabled() and pictures.requires_grad:
            return cast(Tensor, _WithGradient.apply(pictures, self))
        return self.output(pictures)

    def output(self, pictures: Tensor) -> Tensor:
        """The forward pass alone."""
        return cast(Tensor, self._forward(pictures))

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
        if self._backward is None:
            return self._forward.input_gradient(gradient, shape)
        return cast(Tensor, self._backward(gradient))

    def _let_through(self, gradient: Tensor, output: Tensor) -> Tensor:
        into = gradient if self.owns_gradient else torch.empty_like(output)
        if self._activation == "relu":
            torch.ops.aten.threshold_backward.grad_input(gradient, output, 0.0, grad_input=into)
        else:
            torch.ops.aten.hardtanh_backward.grad_input(gradient, output, 0.0, _SIX, grad_input=into)
        return into


class _Kernel(nn.Module):
    """oneDNN's convolution with an activation, without gradients."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        weight = convolution.weight.detach().contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", convolution.bias.detach())
        self._sizes = convolution.stride, convolution.padding, convolution.dilation, convolution.groups
        self._post_op = _POST_OPS[convolution.activation]

    def forward(self, pictures: Tensor) -> Tensor:
        stride, padding, dilation, groups = self._sizes
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(
            pictures, self.weight, self.bias, padding, stride, dilation, groups, *self._post_op, ""
        )
        return output

    def sums(self, pictures: Tensor) -> Tensor:
        """The convolution alone, by torch's own function, whose gradients autograd knows."""
        return F.conv2d(pictures, self.weight, self.bias, *self._sizes)

    def input_gradient(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of the input, of a `shape`, from that of the sums before the activation."""
        stride, padding, dilation, groups = self._sizes
        # Values of the input are asked for by gradients of weights alone.
        like = torch.empty(shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        wanted: Tensor
        wanted, _, _ = torch.ops.aten.convolution_backward(
            gradient, like, self.weight, None, stride, padding, dilation, False, (0, 0), groups, (True, False, False)
        )
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

"""The fused engine: gradients on a CPU, with each convolution and what surrounds it as one kernel.

Sums are taken in another order than by the plain network: outputs agree to about 1e-5, not bit for bit.
"""

from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from transforms import cache
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.engines.agreement import disagreement, running, steepness_apart
from transforms.models.engines.fused_convolution import Activation, Convolution, FusedConvolution, pair
from transforms.models.engines.identity import identity


def prepare(classifier: Classifier) -> Classifier:
    """The same model, with gradients of its input alone.

    Raises:
        InputError: it cannot be had (on another device, of a network without convolutions or whose code depends on its
            input), or its answers or gradients are others.
    """
    if classifier.device.type != "cpu":
        raise InputError(f"fused runs on a CPU, not on {classifier.device.type}; give gradients: torch")
    with running("fused", "gradients: torch"):
        other = Classifier(fused(classifier.network), classifier.preprocessing)
        agrees = f"agreements/fused-{identity(classifier)}"
        if cache.read(agrees) is not None:
            return other
        reason = disagreement(classifier, other) or steepness_apart(classifier, other)
    if reason:
        raise InputError(f"fused answers otherwise than torch: {reason}; give gradients: torch")
    cache.write(agrees, b"")
    return other


def fused(network: nn.Module) -> nn.Module:
    """A network in evaluation mode with its convolutions fused with what surrounds them; other layers are shared.

    Raises:
        Exception: nearly any, of `torch.fx`, for a network whose code depends on its input.
        ValueError: no batch norm and no ReLU follows a convolution.
    """
    graph_module = fx.GraphModule(network, _Tracer().trace(network))
    found = [(node, _convolution(graph_module, node)) for node in graph_module.graph.nodes]
    convolutions = [(node, convolution) for node, convolution in found if convolution is not None]
    gained = [_fuse(graph_module, *each, f"fused_{number}") for number, each in enumerate(convolutions)]
    if not any(gained):
        raise ValueError("it has nothing to fuse")
    for node in graph_module.graph.nodes:
        after = _only_user(node)
        if after is not None and isinstance(module := _module(graph_module, node), FusedConvolution):
            module.owns_gradient = isinstance(_module(graph_module, after), FusedConvolution)
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return _ChannelsLast(graph_module)


class _Tracer(fx.Tracer):
    """Leaves batch norm whole where another library's joins it with an activation, as timm's BatchNormAct2d does."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


class _ChannelsLast(nn.Module):
    """Hands pictures over in the memory format in which the kernels are quickest."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.network(pictures.contiguous(memory_format=torch.channels_last))
        return logits


def _fuse(owner: fx.GraphModule, node: fx.Node, found: Convolution, name: str) -> bool:
    """Replaces a convolution, and what can be fused with it, by one module; returns whether anything could."""
    source, last = cast(fx.Node, node.args[0]), node
    padding = _zero_padding(owner, source)
    if padding is not None and len(source.users) == 1 and (behind := found.padded(*padding)) is not None:
        found, source = behind, cast(fx.Node, source.args[0])
    after, joined = _only_user(last), None
    if after is not None and isinstance(norm := _module(owner, after), nn.BatchNorm2d) and norm.track_running_stats:
        found, last, joined = found.normalized(norm), after, getattr(norm, "act", None)
        after = _only_user(last)
    if joined is not None:
        found = replace(found, activation=_KINDS.get(type(joined), "none"))
    elif after is not None and (activation := _activation(owner, after)) != "none":
        found, last = replace(found, activation=activation), after
    owner.add_submodule(name, FusedConvolution(found))
    with owner.graph.inserting_before(last):
        result = owner.graph.call_module(name, (source,))
        if joined is not None and found.activation == "none":
            owner.add_submodule(f"{name}_activation", joined)
            result = owner.graph.call_module(f"{name}_activation", (result,))
        last.replace_all_uses_with(result)
    return last is not node


def _module(owner: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return owner.get_submodule(str(node.target)) if node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _convolution(owner: fx.GraphModule, node: fx.Node) -> Convolution | None:
    """The convolution that a node computes; None where it computes something else, or one of another kind."""
    module = _module(owner, node)
    if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return _of(module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups)
    if node.op != "call_function" or node.target is not F.conv2d or node.kwargs:
        return None
    arguments: tuple[Any, ...] = (*node.args, *_DEFAULTS[len(node.args) :])
    _, weight, bias, stride, padding, dilation, groups = arguments
    weights, biases = _attribute(owner, weight), _attribute(owner, bias)
    if weights is None or (biases is None and bias is not None) or isinstance(padding, str):
        return None
    return _of(weights, biases, stride, padding, dilation, groups)


_DEFAULTS: tuple[Any, ...] = (None, None, None, 1, 0, 1, 1)
"""Of what `conv2d` takes: input, weight, bias, stride, padding, dilation, groups."""


def _of(weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: Any) -> Convolution:
    bias = torch.zeros_like(weight[:, 0, 0, 0]) if bias is None else bias
    return Convolution(weight, bias, pair(stride), pair(padding), pair(dilation), groups)


def _attribute(owner: nn.Module, argument: Any) -> Tensor | None:
    """The tensor of a network that is handed to a function; None where it is computed."""
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    *parents, last = str(argument.target).split(".")
    tensor: Tensor = getattr(owner.get_submodule(".".join(parents)), last)
    return tensor


def _zero_padding(owner: fx.GraphModule, node: fx.Node) -> tuple[int, int, int, int] | None:
    """Zeros that a node puts around pictures: left, right, top, bottom; None where it does something else."""
    module = _module(owner, node)
    return module.padding if isinstance(module, nn.ZeroPad2d) else None


_KINDS: dict[type[nn.Module], Activation] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}
_FUNCTIONS: dict[Any, Activation] = {F.relu: "relu", torch.relu: "relu", "relu": "relu", "relu_": "relu"}
_FUNCTIONS |= {F.relu6: "relu6"}


def _activation(owner: fx.GraphModule, node: fx.Node) -> Activation:
    """The activation that a node computes; "none" for whatever cannot be fused."""
    if (module := _module(owner, node)) is not None:
        return _KINDS.get(type(module), "none")
    return _FUNCTIONS.get(node.target, "none") if node.op in {"call_function", "call_method"} else "none"

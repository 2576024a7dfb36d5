"""Residual blocks, found in the graph of gradients."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

_WITH_PLACES = 3
"""Dimensions of features at several places: (B, C, H, W) or (B, tokens, C)."""


@dataclass(frozen=True)
class ResidualBlock:
    """What is added at the end of a block.

    Attributes:
        skip: the block's input, as it is or projected.
        residual: what the layers made of it.
        beginning: the block's input, in the graph of gradients.
        layers: what is between it and `residual` there, of each thing that the layers did.
    """

    skip: Tensor
    residual: Tensor
    beginning: GradientEdge
    layers: frozenset[Node]


def residual_block(first: Tensor, second: Any) -> ResidualBlock | None:
    """The block that ends with the sum of two tensors; None where none does.

    Both go back to the block's input, one by fewer operations than the other. They are followed back one operation at
    a time, so that the first place that both have passed is that input.
    """
    if not isinstance(second, Tensor) or first.shape != second.shape or first.dim() < _WITH_PLACES:
        return None
    ends = first.grad_fn, second.grad_fn
    if ends[0] is None or ends[1] is None or ends[0] is ends[1]:
        return None
    passed: list[dict[Node, int]] = [{ends[0]: 0}, {ends[1]: 0}]
    reached: list[list[Node]] = [[ends[0]], [ends[1]]]
    depth = 0
    while any(reached):
        depth += 1
        for own, other in ((0, 1), (1, 0)):
            before, reached[own] = reached[own], []
            for node, output in (each for one in before for each in one.next_functions):
                if node is None or node in passed[own]:
                    continue
                passed[own][node] = depth
                if node in passed[other]:
                    return _between(first, second, passed, GradientEdge(node, output))
                reached[own].append(node)
    return None


def _between(
    first: Tensor, second: Tensor, passed: list[dict[Node, int]], beginning: GradientEdge
) -> ResidualBlock | None:
    depths = [each[beginning.node] for each in passed]
    if depths[0] == depths[1]:
        return None  # two branches alike, none of which skips anything
    longer = int(depths[1] > depths[0])
    layers = frozenset(passed[longer]) - {beginning.node}
    skip, residual = (first, second) if longer else (second, first)
    return ResidualBlock(skip, residual, beginning, layers)

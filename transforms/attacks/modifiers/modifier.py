"""The contract of modifiers: what changes parts of a surrogate while an attack takes its gradients.

A modifier names *parts* of a network and how each is changed. What it returns takes the part's place in that one look;
the network itself stays as it is, so that whoever else asks it gets its own answers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor
from torch.autograd.graph import GradientEdge

from transforms.randomness import Draws

Part = Literal["skip", "residual", "mlp", "qkv", "attention", "relu", "max pool"]

PARTS: dict[Part, str] = {
    "skip": "residual connections",
    "residual": "residual connections",
    "mlp": "transformer blocks with an MLP",
    "qkv": "self-attention",
    "attention": "self-attention",
    "relu": "ReLUs",
    "max pool": "max pooling",
}
"""What a network must have, in words, by part:

- skip: what passes a residual block by, in the sum at its end: (B, C, H, W) or (B, tokens, C).
- residual: what the block's layers add to it, likewise.
- mlp: the same of a transformer's block without attention: (B, tokens, C).
- qkv: queries, keys and values of self-attention: (3, B, heads, tokens, channels of a head).
- attention: the attention map, rows that sum to 1: (B, heads, tokens, tokens).
- relu: the input of a ReLU or ReLU6, but for one that follows a residual sum; what is returned is its output. The
  argument `ceiling` is its largest value.
- max pool: the input of max pooling, (B, C, H, W); what is returned is its output.
"""


@dataclass(frozen=True)
class Place:
    """One place in a network where a part is, in one look.

    Attributes:
        number: its number among all places of this part, from 0 at the input.
        of: how many there are.
        draws: of the images, for this place; only a random modifier may ask for them.
        memory: what the modifier keeps from one place to the next; empty at the beginning of each look.
        carried: what it keeps of this place from one look to the next; empty at the beginning of each run of an attack.
        original: what the network itself does there, without changing its input; of a skip, residual or other tensor
            that is only handed on, nothing.
        arguments: of `original`, such as a kernel's size.
        block: of a residual, where the block's input is in the graph of gradients.
    """

    number: int
    of: int
    draws: Draws | None
    memory: dict[str, Any]
    carried: dict[str, Any] = field(default_factory=dict)
    original: Callable[[Tensor], Tensor] = lambda tensor: tensor
    arguments: Mapping[str, Any] = field(default_factory=dict)
    block: GradientEdge | None = None


Change = Callable[[Tensor, Place], Tensor]
"""What a part holds -> what takes its place, of the same shape unless the part says otherwise; differentiable."""


def _takes_any(_counts: Mapping[Part, int]) -> None:
    pass


@dataclass(frozen=True)
class Modifier:
    """What a surrogate is changed by.

    Attributes:
        source: the paper.
        changes: how each part is changed.
        optional: parts that a network may lack.
        random: whether anything is drawn: per image, anew for each gradient.
        exact: whether the answers stay the network's own, and only their gradients change.
        check: raises InputError for a network that has its parts in so many places.
    """

    source: str
    changes: Mapping[Part, Change]
    optional: tuple[Part, ...] = ()
    random: bool = False
    exact: bool = True
    check: Callable[[Mapping[Part, int]], None] = _takes_any

"""Layers: a network's modules by their own dotted names; what they answer can be read, and changed on its way.

Attacks that look inside a surrogate do it through `features` and `changing`. The network must be the one that torch has
loaded: other engines have no such modules.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from transforms.errors import InputError

Change = Callable[[Tensor], Tensor]
"""What a module answers (B, ...) -> what the network goes on with, of the same shape."""
Show = Callable[[], object]
"""Shows a network something."""

_EIGHTH = 3
"""Binary logarithm of eight."""


@dataclass(frozen=True)
class Layer:
    """A module that answers once in a pass, with one tensor that has a row for each picture.

    Attributes:
        name: as the network spells it, as in `layer2.3`.
        kind: its class.
        shape: of what it answers to one picture.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def side(self) -> int | None:
        """Of the squares that it answers with, channels first or last; None for any other answer."""
        if len(self.shape) != len("CHW"):
            return None
        first, middle, last = self.shape
        return last if middle == last else first if first == middle else None


@contextmanager
def changing(network: nn.Module, changes: Mapping[str, Change]) -> Iterator[None]:
    """While its body runs, the network goes on with what changes make of its modules' answers, by the modules' names.

    In this thread alone: others may show the same network something else meanwhile.
    """
    with ExitStack() as hooks:
        for name, change in changes.items():
            hook = partial(_changed, change, get_ident())
            hooks.callback(network.get_submodule(name).register_forward_hook(hook).remove)
        yield


def _changed(change: Change, thread: int, _module: nn.Module, _shown: object, answer: Tensor) -> Tensor:
    return change(answer) if get_ident() == thread else answer


def features(network: nn.Module, layer: str, show: Show) -> Tensor:
    """What a layer answers, (B, ...), to what the network is shown, which goes no further than that layer."""
    answers: list[Tensor] = []

    def stop(answer: Tensor) -> Tensor:
        answers.append(answer)
        raise _ReachedError

    with changing(network, {layer: stop}):
        try:
            show()
        except _ReachedError:
            return answers.pop()
    raise AssertionError(f"{layer} was not asked")


def beside(network: nn.Module, layer: str, show: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What a network answers to what it is shown, and what a layer answers on the way, flattened: (B, values)."""
    answers: list[Tensor] = []

    def keep(answer: Tensor) -> Tensor:
        answers.append(answer.clone())  # what follows may write into it
        return answer

    with changing(network, {layer: keep}):
        whole = show()
    return whole, answers.pop().flatten(1)


class _ReachedError(Exception):
    """The layer has answered."""


def layers_of(network: nn.Module, show: Callable[[Tensor], object], shown: Tensor) -> tuple[Layer, ...]:
    """All layers of a network, in the order in which they answer.

    Args:
        show: shows it pictures.
        shown: some, float (B, 3, h, h) in [0, 1], B > 1.
    """
    answers: dict[str, list[Layer | None]] = {}

    def note(name: str, module: nn.Module, _shown: object, answer: Any) -> None:
        usable = isinstance(answer, Tensor) and answer.dim() > 1 and len(answer) == len(shown)
        layer = Layer(name, type(module).__name__, tuple(answer.shape[1:])) if usable else None
        answers.setdefault(name, []).append(layer)

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in network.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        show(shown)
    return tuple(layer for found in answers.values() for layer in found if layer and len(found) == 1)


def usual_layer(layers: Sequence[Layer], input_size: int) -> str:
    """The name of the layer that attacks on features look at where nothing is said.

    Of a network of convolutions the last block at an eighth of the input's side, much as in the papers: `layer2` of
    ResNets, `features.denseblock2` of DenseNets. Of a transformer, which looks at tokens, the middle block, `blocks.5`
    of twelve; of anything else, too, the middle one of the longest series of modules of one kind in another module.
    """

    def place(layer: Layer) -> tuple[str, str]:
        return layer.name.rpartition(".")[0], layer.kind

    if not layers:
        raise InputError("layer: the network has no modules inside that answer with a tensor")
    series = [list(some) for _, some in groupby(sorted(layers, key=place), place)]
    longest: list[Layer] = max(series, key=lambda some: (len(some), some[0].name.count(".")))
    blocks = sorted(longest, key=layers.index)
    middle = blocks[(len(blocks) - 1) // 2]
    eighths = [each for each in layers if each.side and round(math.log2(input_size / each.side)) == _EIGHTH]
    if not eighths or len(middle.shape) == len(("token", "value")):
        return middle.name
    outermost = min(each.name.count(".") for each in eighths)
    return [each.name for each in eighths if each.name.count(".") == outermost][-1]

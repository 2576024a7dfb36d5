"""One look of a network, in which modifiers change the parts that it comes to.

Parts are found by the functions of torch that a network calls, whichever library it is from, and by the graph of
gradients that these leave behind. Only calls of the thread that looks are seen, and none of a network's modules is
touched.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from transforms.attacks.modifiers.blocks import residual_block
from transforms.attacks.modifiers.modifier import Modifier, Part, Place
from transforms.randomness import Draws

Carried = dict[tuple[int, Part, int], dict[str, Any]]
"""What is kept from one look to the next: by the modifier's number, the part, and the place's number."""
_HEADS_APART = 4
"""Dimensions of an attention map."""


class Look(TorchFunctionMode):
    """Changes parts, as long as it is entered.

    Attributes:
        met: how often each part was met so far.
        hidden: whether there was attention whose queries, keys and values could not be seen.
    """

    def __init__(
        self,
        modifiers: Sequence[Modifier],
        counts: Mapping[Part, int],
        draws: Draws | None,
        carried: Carried | None = None,
    ) -> None:
        """Args:
        modifiers: in the order in which they change a part.
        counts: how often a look meets each part.
        draws: of the images; None where nothing is drawn.
        carried: from the looks of this run before it; None outside of a run.
        """
        super().__init__()
        self._memories: list[tuple[Modifier, dict[str, Any]]] = [(each, {}) for each in modifiers]
        self._counts = counts
        self._draws = draws
        self._carried: Carried = {} if carried is None else carried
        self._sums: set[Node | None] = set()
        self._attention: set[Node | None] = set()
        self.met: Counter[Part] = Counter()
        self.hidden = False

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        stand_in = _STAND_INS.get(getattr(func, "__name__", ""))
        kwargs = kwargs or {}
        return func(*args, **kwargs) if stand_in is None else stand_in(self, func, *args, **kwargs)

    def _changed(self, part: Part, tensor: Tensor, **known: Any) -> Tensor | None:
        """What takes a part's place; None where no modifier changes it."""
        number = self.met[part]
        self.met[part] += 1
        changed = None
        for order, (modifier, memory) in enumerate(self._memories):
            if part in modifier.changes:
                draws = self._draws.at("modifier", order, part, number) if self._draws and modifier.random else None
                carried = self._carried.setdefault((order, part, number), {})
                place = Place(number, self._counts[part], draws, memory, carried, **known)
                changed = modifier.changes[part](tensor if changed is None else changed, place)
        return changed

    def _handed_on(self, part: Part, tensor: Tensor, **known: Any) -> Tensor:
        changed = self._changed(part, tensor, **known)
        return tensor if changed is None else changed

    def sum(self, func: Callable[..., Tensor], first: Tensor, second: Any, **kwargs: Any) -> Tensor:
        """A sum, which may be at the end of a residual block."""
        block = None if kwargs else residual_block(first, second)
        if block is None:
            return func(first, second, **kwargs)
        skip = self._handed_on("skip", block.skip)
        residual = self._handed_on("residual", block.residual, block=block.beginning)
        if self._attention and not self._attention & block.layers:
            residual = self._handed_on("mlp", residual)
        total = skip + residual
        self._sums.add(total.grad_fn)
        return total

    def relu(self, func: Callable[..., Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A ReLU or a ReLU6, which may follow a residual sum."""
        ceiling = _ceiling(func.__name__, args, kwargs)
        if ceiling is None or tensor.grad_fn in self._sums:
            return func(tensor, *args, **kwargs)
        original = partial(F.hardtanh, min_val=0.0, max_val=ceiling)
        changed = self._changed("relu", tensor, original=original, arguments={"ceiling": ceiling})
        return func(tensor, *args, **kwargs) if changed is None else changed

    def max_pool(self, func: Callable[..., Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Max pooling."""
        arguments = {**dict(zip(("kernel_size", "stride", "padding"), args, strict=False)), **kwargs}
        original = partial(func, **arguments)
        changed = self._changed("max pool", tensor, original=original, arguments=arguments)
        return original(tensor) if changed is None else changed

    def attention(
        self,
        func: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **others: Any,
    ) -> Tensor:
        """Scaled dot-product attention; where nothing is masked, its map is written out."""
        plain = query.shape == key.shape == value.shape and attn_mask is None
        if not plain or is_causal or dropout_p or any(others.values()):
            self.hidden = True
            return func(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others)
        return self._attended(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        query, key, value = self._handed_on("qkv", torch.stack([query, key, value])).unbind()
        scores = scale * (query @ key.transpose(-2, -1))
        attended = self._handed_on("attention", scores.softmax(dim=-1)) @ value
        self._attention.add(attended.grad_fn)
        return attended

    def multi_head(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Attention as `nn.MultiheadAttention` asks for it, of (tokens, B, channels)."""
        named = {**dict(zip(_MULTI_HEAD, args, strict=False)), **kwargs}
        query, weight, heads = named["query"], named["in_proj_weight"], named["num_heads"]
        to_itself = query is named["key"] and query is named["value"] and weight is not None
        if not to_itself or any(named.get(each) is not None and named[each] is not False for each in _NO_PLAIN):
            self.hidden = True
            return func(*args, **kwargs)
        tokens, images, channels = query.shape
        projected = F.linear(query, weight, named["in_proj_bias"]).view(tokens, images, 3, heads, -1)
        query, key, value = projected.permute(2, 1, 3, 0, 4).unbind()
        attended = self._attended(query, key, value, (channels // heads) ** -0.5)
        joined = attended.permute(2, 0, 1, 3).reshape(tokens, images, channels)
        return F.linear(joined, named["out_proj_weight"], named["out_proj_bias"]), None

    def softmax(self, func: Callable[..., Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Of a map with heads, it is attention that a network computes by itself."""
        self.hidden |= tensor.dim() >= _HEADS_APART
        return func(tensor, *args, **kwargs)


_MULTI_HEAD = tuple(signature(F.multi_head_attention_forward).parameters)
_NO_PLAIN = ("bias_k", "bias_v", "add_zero_attn", "key_padding_mask", "attn_mask", "need_weights")
_STAND_INS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "__iadd__"), Look.sum),
    **dict.fromkeys(("relu", "relu_", "relu6", "hardtanh", "hardtanh_"), Look.relu),
    "max_pool2d": Look.max_pool,
    "scaled_dot_product_attention": Look.attention,
    "multi_head_attention_forward": Look.multi_head,
    "softmax": Look.softmax,
}
"""By the names of torch's functions and of the methods that do the same."""


def _ceiling(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """The largest value of a ReLU or ReLU6; None of a `hardtanh` that is neither."""
    if not name.startswith("hardtanh"):
        return 6.0 if name == "relu6" else math.inf
    bounds = {**dict(zip(("min_val", "max_val"), args, strict=False)), **kwargs}
    return float(bounds["max_val"]) if bounds.get("min_val", -1.0) == 0 and bounds.get("max_val") == 6 else None  # noqa: PLR2004

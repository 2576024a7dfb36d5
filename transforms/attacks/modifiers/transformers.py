"""Modifiers of vision transformers."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.modifiers.backward import returned
from transforms.attacks.modifiers.modifier import Change, Modifier, Part, Place
from transforms.errors import InputError
from transforms.ranges import above, at_least, within


def pna() -> Modifier:
    """Pay no attention: nothing flows back through attention maps, as if they were constants."""
    return Modifier("Wei et al. 2022, arXiv:2109.04176", {"attention": lambda weights, _: weights.detach()})


def tgr(*, attention: float = 0.25, qkv: float = 0.75, mlp: float = 0.5) -> Modifier:
    """Token gradient regularization: smaller gradients of attention and MLPs, and none at extreme tokens.

    What flows back through attention maps, through queries, keys and values, and through what an MLP adds to its block
    is multiplied by these factors, and by 0 where `extremes` says so.
    """
    within("[0, 1]", attention=attention, qkv=qkv, mlp=mlp)

    def regularized(factor: float, part: Part) -> Change:
        def regularize(back: Tensor) -> Tensor:
            return (factor * back).masked_fill(extremes(back, part) > 0, 0.0)

        return lambda tensor, _: returned(tensor, regularize)

    changes = {part: regularized(factor, part) for part, factor in _factors(attention, qkv, mlp).items()}
    return Modifier("Zhang et al. 2023, arXiv:2303.15754", changes)


def att(
    *,
    attention: float = 0.45,
    qkv: float = 0.7,
    mlp: float = 0.65,
    penalty: float = 0.5,
    adaptation: float = 0.01,
    truncated: int = 2,
) -> Modifier:
    """Adaptive token tuning: as `tgr`, but gradients at extreme tokens are multiplied by another factor.

    Args:
        penalty: that factor, in the last block; elsewhere it is smaller where gradients vary more than one block later.
        adaptation: by how much it is larger where they do not vary at all.
        truncated: last blocks through whose attention maps nothing flows back.
    """
    within("[0, 1]", attention=attention, qkv=qkv, mlp=mlp, penalty=penalty)
    at_least(0, adaptation=adaptation, truncated=truncated)

    def tuned(factor: float, part: Part) -> Change:
        def tune(tensor: Tensor, place: Place) -> Tensor:
            cut = part == "attention" and place.number >= place.of - truncated
            return returned(tensor, lambda back: _tuned(back * (0 if cut else factor), part, place.memory))

        return tune

    def _tuned(back: Tensor, part: Part, memory: dict[str, Tensor]) -> Tensor:
        varied = _variance(back, part)
        behind = memory.get(part, torch.zeros_like(varied))
        kept = (penalty + adaptation * (1 - (varied / behind).sqrt())).clamp(0, 1)
        back = back * torch.where(behind > 0, kept, penalty) ** extremes(back, part)
        memory[part] = _variance(back, part)
        return back

    changes = {part: tuned(factor, part) for part, factor in _factors(attention, qkv, mlp).items()}
    return Modifier("Ming et al. 2024, NeurIPS", changes)


def fpr(
    *,
    blocks: tuple[int, ...] = (0, 1, 4, 9, 11),
    attention_range: float = 25.0,
    embedding_scale: float = 0.8,
    embedding_decay: float = 0.3,
) -> Modifier:
    """Forward propagation refinement: random attention maps in some blocks, and tokens that go on from look to look.

    Args:
        blocks: whose maps are multiplied by random numbers, 1 ± `attention_range` at most, and made to sum to 1 by
            softmax once more; from 0.
        embedding_scale: of what attention and MLPs add to a block.
        embedding_decay: of what was added in the look before, with what that had carried on, which is added to it.
    """
    above(0, attention_range=attention_range, embedding_scale=embedding_scale)
    within("[0, 1)", embedding_decay=embedding_decay)
    for block in blocks:
        at_least(0, blocks=block)

    def diversified(weights: Tensor, place: Place) -> Tensor:
        if place.number not in blocks:
            return weights
        if place.draws is None:
            raise TypeError("fpr is random: it needs draws")
        drawn = place.draws.uniform(weights.shape[1:], "factor").to(weights.device)
        return (weights * (1 + attention_range * (2 * drawn - 1))).softmax(dim=-1)

    def carried_on(residual: Tensor, place: Place) -> Tensor:
        embedding = embedding_scale * residual
        if "embedding" in place.carried:
            embedding = embedding + embedding_decay * place.carried["embedding"]
        place.carried["embedding"] = embedding.detach()
        return embedding

    def check(counts: Mapping[Part, int]) -> None:
        for block in blocks:
            if block >= counts["attention"]:
                raise InputError(
                    f"fpr: blocks: {block} is not below {counts['attention']}, as many as this network has"
                )

    changes: dict[Part, Change] = {"attention": diversified, "residual": carried_on}
    return Modifier("Ren et al. 2025, arXiv:2503.15404", changes, random=True, exact=False, check=check)


def _factors(attention: float, qkv: float, mlp: float) -> dict[Part, float]:
    return {"qkv": qkv, "attention": attention, "mlp": mlp}


def extremes(gradient: Tensor, part: Part) -> Tensor:
    """How often each value is at an extreme token, of the shape of the part's gradient.

    Of an attention map, (..., tokens, tokens): each of the rows and columns that hold its largest or its smallest
    value, counted by itself. Of (..., tokens, channels): the largest and the smallest value of each channel.
    """
    if part != "attention":
        places = torch.cat([gradient.argmax(-2, keepdim=True), gradient.argmin(-2, keepdim=True)], dim=-2)
        return torch.zeros_like(gradient).scatter_add(-2, places, torch.ones_like(gradient[..., :2, :]))
    flat = gradient.flatten(-2)
    places = torch.stack([flat.argmax(-1), flat.argmin(-1)], dim=-1)
    tokens = gradient.shape[-1]
    rows, columns = (F.one_hot(each, tokens).sum(dim=-2) for each in (places // tokens, places % tokens))
    return rows[..., :, None] + columns[..., None, :]


def _variance(gradient: Tensor, part: Part) -> Tensor:
    """Of all values of each image, so that it goes with the part's gradient."""
    image = 1 if part == "qkv" else 0
    return gradient.var([axis for axis in range(gradient.dim()) if axis != image], keepdim=True)


MODIFIERS: dict[str, Callable[..., Modifier]] = {"pna": pna, "tgr": tgr, "att": att, "fpr": fpr}

"""Modifiers of vision transformers, against hooks on timm's own modules with the authors' loops over one image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.attacks.modifiers.networks import hooked, modified, pictures, slope, torchvision_vit, vit
from transforms.attacks.modifiers.registry import MODIFIERS
from transforms.attacks.modifiers.transformers import extremes

VITS = ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"]


def alone(network: Callable[[Tensor], Tensor], shown: Tensor) -> Tensor:
    """Each image's gradient from a batch of its own."""
    return torch.cat([slope(network, each[None]) for each in shown])


def same(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def pairs(gradient: Tensor, change: Callable[[np.ndarray, Any], None]) -> Tensor:
    """A map's gradient (1, heads, tokens, tokens), of which a loop changes rows and columns of each head's extremes."""
    changed = gradient.clone().numpy()
    for head in changed[0]:
        for place in (head.argmax(), head.argmin()):
            row, column = np.unravel_index(place, head.shape)
            change(head, (row, slice(None)))
            change(head, (slice(None), column))
    return torch.from_numpy(changed)


def tokens(gradient: Tensor, change: Callable[[np.ndarray, Any], None]) -> Tensor:
    """A gradient (1, tokens, channels), of which a loop changes each channel's extremes."""
    changed, before = gradient.clone().numpy(), gradient.numpy()
    for channel in range(before.shape[2]):
        for place in (before[0, :, channel].argmax(), before[0, :, channel].argmin()):
            change(changed[0], (place, channel))
    return torch.from_numpy(changed)


def zero(values: np.ndarray, place: Any) -> None:
    values[place] = 0


def by_tgr(network: nn.Module) -> nn.Module:
    return hooked(
        network,
        attention=lambda gradient: pairs(0.25 * gradient, zero),
        qkv=lambda gradient: tokens(0.75 * gradient, zero),
        mlp=lambda gradient: tokens(0.5 * gradient, zero),
    )


def by_att(network: nn.Module, depth: int) -> nn.Module:
    """With variances that go from one block to the one before it, and no attention in the last two."""
    variances: dict[str, float] = {"attention": 0.0, "qkv": 0.0, "mlp": 0.0}
    seen = {"attention": 0}

    def regularized(part: str, gradient: Tensor, walk: Callable[..., Tensor]) -> Tensor:
        before = variances[part]
        kept = 0.5
        if before != 0:
            kept = float(np.clip(0.5 + 0.01 * (1 - np.sqrt(float(gradient.var()) / before)), 0, 1))

        def damped(values: np.ndarray, place: Any) -> None:
            values[place] *= kept

        found = walk(gradient, damped)
        variances[part] = float(found.var())
        return found

    def attention(gradient: Tensor) -> Tensor:
        seen["attention"] += 1
        return regularized("attention", gradient * (0.45 if seen["attention"] > 2 else 0), pairs)

    return hooked(
        network,
        attention=attention,
        qkv=lambda gradient: regularized("qkv", 0.7 * gradient, tokens),
        mlp=lambda gradient: regularized("mlp", 0.65 * gradient, tokens),
    )


@pytest.mark.parametrize("name", VITS)
def test_pna_takes_attention_maps_for_constants(name: str) -> None:
    network, shown = vit(name), pictures(3)
    expected = hooked(network, attention=torch.zeros_like, qkv=torch.clone, mlp=torch.clone)
    assert same(slope(modified(network, MODIFIERS["pna"]()), shown), slope(expected, shown))
    assert not same(slope(expected, shown), slope(network, shown))


@pytest.mark.parametrize("name", VITS)
def test_tgr_is_the_authors_loop_for_each_image_alone(name: str) -> None:
    network, shown = vit(name), pictures(3)
    assert same(slope(modified(network, MODIFIERS["tgr"]()), shown), alone(by_tgr(network), shown))


@pytest.mark.parametrize("name", VITS)
def test_att_is_the_authors_loop_for_each_image_alone(name: str) -> None:
    network, shown = vit(name, depth=4), pictures(3)
    expected = torch.cat([slope(by_att(network, 4), each[None]) for each in shown])
    assert same(slope(modified(network, MODIFIERS["att"]()), shown), expected)


@pytest.mark.parametrize("modifier", ["pna", "tgr", "att", "sgm"])
def test_the_same_weights_have_the_same_gradients_in_torchvision_and_timm(modifier: str) -> None:
    network, shown = vit(depth=3), pictures()
    made = MODIFIERS[modifier]()
    assert same(slope(modified(torchvision_vit(network), made), shown), slope(modified(network, made), shown))


def test_extremes_are_counted() -> None:
    attention = torch.tensor(
        [[[[0.0, 9.0, 1.0], [2.0, 3.0, 4.0], [-5.0, 6.0, 7.0]]]]
    )  # row 0, column 1; row 2, column 0
    assert extremes(attention, "attention").tolist() == [[[[2, 2, 1], [1, 1, 0], [2, 2, 1]]]]
    channels = torch.tensor([[[1.0, 5.0], [3.0, 4.0], [2.0, 4.5]]])
    assert extremes(channels, "mlp").tolist() == [[[1, 1], [1, 1], [0, 0]]]
    equal = torch.ones(1, 2, 1)
    assert extremes(equal, "mlp").sum() == 2


def test_tgr_and_pna_go_together() -> None:
    network, shown = vit(), pictures()
    together = modified(network, MODIFIERS["pna"](), MODIFIERS["tgr"](qkv=1.0))
    assert torch.equal(
        slope(together, shown), slope(modified(network, MODIFIERS["tgr"](attention=0.0, qkv=1.0)), shown)
    )

"""Modifiers of vision transformers, against hooks on timm's own modules with the authors' loops over one image."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.attacks.modifiers.networks import SIDE, hooked, modified, pictures, slope, torchvision_vit, vit
from tests.support.attacks import as_is, batch_of, recording, some_canvases
from transforms.attacks.balls import LinfBall
from transforms.attacks.modifiers.modified import Modified
from transforms.attacks.modifiers.registry import MODIFIERS
from transforms.attacks.modifiers.transformers import extremes
from transforms.attacks.recipes.names import recipe, with_changing
from transforms.attacks.surrogates import Surrogates
from transforms.models.views import center
from transforms.randomness import Draws

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


FPR: dict[str, Any] = {"blocks": (0, 3), "attention_range": 6.0, "embedding_scale": 0.7, "embedding_decay": 0.4}


class Refined:
    """A copy of timm's with the hooks of Ren et al. 2025 on its own modules, for one image."""

    def __init__(self, network: nn.Module) -> None:
        self.network: Any = copy.deepcopy(network)
        self.before: dict[nn.Module, Tensor] = {}
        self.draws: Draws
        blocks: Any = self.network.blocks
        for number, block in enumerate(blocks):
            block.attn.fused_attn = False
            if number in (0, 3):
                block.attn.attn_drop.register_forward_hook(partial(self.diversify, number))
            block.attn.register_forward_hook(self.carry_on)
            block.mlp.register_forward_hook(self.carry_on)

    def diversify(self, number: int, _module: nn.Module, _shown: object, attention: Tensor) -> Tensor:
        path = self.draws.at("modifier", 0, "attention", number)
        drawn = path.uniform(attention.shape[1:], "factor")[0]
        maps = []
        for head in range(attention.shape[1]):
            factors = (1 - 6) + drawn[head] * (2 * 6)
            maps.append(torch.softmax(attention[:, head] * factors, dim=-1))
        return torch.stack(maps, dim=1)

    def carry_on(self, module: nn.Module, _shown: object, answer: Tensor) -> Tensor:
        self.before[module] = 0.7 * answer + (0.4 * self.before[module].detach() if module in self.before else 0)
        return self.before[module]

    def slope(self, picture: Tensor, draws: Draws, weights: Tensor) -> Tensor:
        self.draws = draws
        return slope(self.network, picture[None], weights)[0]


@pytest.mark.parametrize("name", VITS)
def test_fpr_is_the_authors_hooks_for_each_image_alone(name: str) -> None:
    """Three looks of one run, and of another run, which begins anew."""
    network, weights = vit(name, depth=4), torch.linspace(-1, 2, 7)
    draws, made = Draws(0, "attack", ["one", "two"]), modified(network, MODIFIERS["fpr"](**FPR))
    for _ in range(2):
        run, alone = made.begun(), [Refined(network) for _ in range(2)]
        for look in range(3):
            shown, drawn = pictures(2, seed=look), draws.at("look", look)
            found = slope(run.drawn(drawn), shown, weights)
            expected = [one.slope(shown[n], drawn.of(n), weights) for n, one in enumerate(alone)]
            assert same(found, torch.stack(expected))
            assert not same(found, slope(made.drawn(drawn), shown, weights)) or look == 0
            assert not same(found, slope(network, shown, weights))


def test_each_run_of_an_attack_with_fpr_begins_anew() -> None:
    """Restart after restart and batch after batch; and an image does not feel its neighbours."""
    network, canvases, labels = vit(depth=4), some_canvases(3, side=SIDE), [1, 2, 3]
    classifier, eps = as_is(network, SIDE), 8 / 255
    followed = [Modified(classifier, {"fpr": MODIFIERS["fpr"](**FPR)})]

    def ends(first: int, last: int) -> list[Tensor]:
        ball, seen = recording(LinfBall(eps))
        attack = with_changing(recipe("bim"), "", random_gradients=True).make(ball, steps=3, restarts=2)
        batch = batch_of(canvases[first:last], labels[first:last], first=first)
        attack(Surrogates([classifier], center, 1.0, followed=followed), batch)
        return seen

    def alone(number: int, restart: int) -> Tensor:
        refined, clean = Refined(network), canvases[number].float() / 255
        point, draws = clean, Draws(0, "attack", [f"image {number}"]).at("restart", restart)
        for step in range(3):
            refined.draws = draws.at("step", step, "defense", 0)
            shown = point[None].clone().requires_grad_()
            loss = nn.functional.cross_entropy(refined.network(shown), torch.tensor([labels[number]]))
            (gradient,) = torch.autograd.grad(loss, shown)
            moved = (point + eps / 3 * gradient[0].sign() - clean).clamp(-eps, eps)
            point = (clean + moved).clamp(0, 1)
        return point

    together, singly = ends(0, 3), [ends(number, number + 1) for number in range(3)]
    for restart in range(2):
        for number in range(3):
            expected = alone(number, restart)
            for found in (together[restart][number], singly[number][restart][0]):
                assert ((found - expected).abs() > 1e-5).float().mean() < 0.01


def test_tgr_and_pna_go_together() -> None:
    network, shown = vit(), pictures()
    together = modified(network, MODIFIERS["pna"](), MODIFIERS["tgr"](qkv=1.0))
    assert torch.equal(
        slope(together, shown), slope(modified(network, MODIFIERS["tgr"](attention=0.0, qkv=1.0)), shown)
    )

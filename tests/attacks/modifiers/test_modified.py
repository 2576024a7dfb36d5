"""What holds for all modifiers: the network stays as it is, and what cannot be modified is refused."""

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from tests.attacks.modifiers.networks import SIDE, modified, pictures, slope, vit
from tests.attacks.modifiers.test_residual import resnet
from tests.support.attacks import as_is, batch_of, make, some_canvases
from transforms.attacks.modifiers.modified import Modified
from transforms.attacks.modifiers.registry import MODIFIERS, ModifierSpec, parameters
from transforms.attacks.surrogates import Surrogates
from transforms.errors import InputError
from transforms.models.views import center

EXACT = [name for name, function in MODIFIERS.items() if function().exact]
OF_TRANSFORMERS = ["pna", "tgr", "att", "fpr"]


def network_for(name: str) -> tuple[nn.Module, int]:
    return (vit(depth=12 if name == "fpr" else 2), SIDE) if name in OF_TRANSFORMERS else (resnet(BasicBlock), 64)


@pytest.mark.parametrize("name", MODIFIERS)
def test_the_network_stays_as_it_is(name: str) -> None:
    network, side = network_for(name)
    shown = pictures(2, side)
    before = network(shown), slope(network, shown)
    hooks = [(dict(each._forward_hooks), dict(each._backward_hooks)) for each in network.modules()]
    made = modified(network, MODIFIERS[name](), side=side)
    made = made.drawn(batch_of(some_canvases(2), [0, 0]).draws)
    assert not torch.equal(slope(made, shown), before[1])
    assert torch.equal(network(shown), before[0]) and torch.equal(slope(network, shown), before[1])
    assert [(dict(each._forward_hooks), dict(each._backward_hooks)) for each in network.modules()] == hooks
    assert made.network is network


@pytest.mark.parametrize("name", EXACT)
def test_answers_stay(name: str) -> None:
    network, side = network_for(name)
    shown = pictures(2, side)
    assert torch.allclose(modified(network, MODIFIERS[name](), side=side)(shown), network(shown), atol=1e-4)


@pytest.mark.parametrize("name", MODIFIERS)
def test_layers_are_the_networks_own(name: str) -> None:
    """Whoever looks for them draws nothing and takes no gradients."""
    network, side = network_for(name)
    made = modified(network, MODIFIERS[name](), side=side)
    assert made.layers == as_is(network, side).layers


def test_another_thread_sees_the_network_as_it_is() -> None:
    """Predictions of the same network may be made while gradients are taken."""
    network, shown = resnet(BasicBlock), pictures(2, 64)
    alone = slope(network, shown)
    found: list[Tensor] = []

    class Meanwhile(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            if not found:
                other = threading.Thread(target=lambda: found.append(slope(network, shown)))
                other.start()
                other.join()
            return network(windows)

    slope(modified(Meanwhile(), MODIFIERS["sgm"](), side=64), shown)
    assert torch.equal(found[0], alone)


class Plain(nn.Module):
    def forward(self, windows: Tensor) -> Tensor:
        return windows.sin().flatten(1)


class OwnAttention(nn.Module):
    """Attention that is partly out of sight: a map of its own beside torch's."""

    def forward(self, windows: Tensor) -> Tensor:
        seen = F.scaled_dot_product_attention(windows, windows, windows)
        own = (windows @ windows.transpose(-2, -1)).softmax(dim=-1) @ windows
        return (seen + own + windows).flatten(1)


class Unassigned(nn.Module):
    """Its in-place ReLU would not be seen."""

    def forward(self, windows: Tensor) -> Tensor:
        values = windows - 0.5
        values.relu_()
        return values.flatten(1)


@pytest.mark.parametrize(
    ("network", "name", "words"),
    [
        (Plain(), "sgm", "sgm changes residual connections, which this network does not have"),
        (Plain(), "ghost", "ghost changes residual connections"),
        (Plain(), "linbp", "linbp changes ReLUs"),
        (Plain(), "pna", "pna changes self-attention"),
        (OwnAttention(), "pna", "pna changes self-attention"),
        (vit(), "bpa", "bpa changes ReLUs"),
        (resnet(BasicBlock), "fpr", "fpr changes self-attention"),
        (vit(), "fpr", "fpr: blocks: 4 is not below 2, as many as this network has"),
        (Unassigned(), "linbp", "linbp: answers of this network would change"),
    ],
)
def test_a_network_without_the_part_is_refused(network: nn.Module, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        Modified(as_is(network, SIDE), {name: MODIFIERS[name]()})
    assert "\n" not in str(refused.value)


def test_two_that_replace_the_same_part_are_refused() -> None:
    with pytest.raises(InputError, match="linbp and bpa both take the place of ReLUs; leave one out"):
        Modified(as_is(resnet(BasicBlock), 64), {name: MODIFIERS[name]() for name in ("linbp", "bpa")})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("sgm", {"gamma": 1.0}),
        ("ghost", {"skip_range": 0.0}),
        ("linbp", {"start": 1.0}),
        ("bpa", {"temperature": 0.0}),
        ("tgr", {"mlp": 1.5}),
        ("att", {"adaptation": -0.1}),
        ("fpr", {"blocks": (0, -1)}),
        ("fpr", {"attention_range": 0.0}),
        ("fpr", {"embedding_scale": 0.0}),
        ("fpr", {"embedding_decay": 1.0}),
    ],
)
def test_a_parameter_out_of_range_is_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: "):
        ModifierSpec(name, tuple(wrong.items())).make()


@pytest.mark.parametrize("name", MODIFIERS)
def test_every_modifier_says_what_it_is(name: str) -> None:
    made = MODIFIERS[name]()
    assert made.source and made.changes and MODIFIERS[name].__doc__
    assert all(kind in (int, float, tuple[int, ...]) for kind, _ in parameters(name).values())


def test_judging_is_left_to_the_network_itself() -> None:
    """Whether an image is fooled, and what a best canvas is, are questions for the model, not for its ghost."""
    network = resnet(BasicBlock)
    classifier = as_is(network, 64)
    batch = batch_of(some_canvases(2, side=64), [1, 2])
    ghost = Modified(classifier, {"ghost": MODIFIERS["ghost"](skip_range=1.0)})
    surrogates = Surrogates([classifier], center, 1.0, followed=[ghost])
    plain = Surrogates([classifier], center, 1.0)
    assert surrogates.random and not plain.random
    drawn = surrogates.redrawn(batch.draws)
    objective = make("bim").objective  # type: ignore[attr-defined]
    assert torch.equal(drawn.logits(batch.clean), plain.logits(batch.clean))
    judged, expected = (each.judge(batch.clean, objective, batch.goal) for each in (drawn, plain))
    assert torch.equal(judged[0], expected[0]) and torch.equal(judged[1], expected[1])
    assert not torch.equal(drawn.slope(batch.clean, objective, batch.goal).logits, plain.logits(batch.clean))


def test_a_ghost_stays_until_it_is_drawn_again() -> None:
    network = resnet(BasicBlock)
    ghost = Modified(as_is(network, 64), {"ghost": MODIFIERS["ghost"]()})
    batch = batch_of(some_canvases(2, side=64), [1, 2])
    drawn = ghost.drawn(batch.draws)
    shown = batch.clean.requires_grad_()
    assert torch.equal(drawn(shown), drawn(shown))

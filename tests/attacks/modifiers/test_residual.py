"""Modifiers of residual blocks, against products of matrices and networks whose blocks are written out."""

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from tests.attacks.modifiers.networks import modified, pictures, random_weights, slope, vit
from tests.support.attacks import draws_for
from transforms.attacks.modifiers.modified import Modified
from transforms.attacks.modifiers.registry import MODIFIERS
from transforms.errors import InputError

GAMMA = 0.3


class Chain(nn.Module):
    """Two linear blocks x + A x and x + B x on the values of each pixel, and weights for each value of each."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.first, self.second = (nn.Parameter(torch.from_numpy(rng.normal(size=(3, 3))).float()) for _ in range(2))
        self.last = nn.Parameter(torch.from_numpy(rng.normal(size=(2, 3))).float())

    def forward(self, windows: Tensor) -> Tensor:
        values = windows.flatten(2).transpose(1, 2)  # (B, pixels, 3)
        values = values + values @ self.first.T
        values = values @ self.second.T + values
        return (values @ self.last.T).sum(dim=1)


def decayed(residual: Tensor) -> Tensor:
    """The same value, a share of the gradient."""
    return GAMMA * residual + (1 - GAMMA) * residual.detach()


def resnet(block: type[BasicBlock | Bottleneck]) -> ResNet:
    network = random_weights(ResNet(block, [2, 2, 1, 1], num_classes=7))
    assert isinstance(network, ResNet)
    return network


def resnet_written_out(network: ResNet, shown: Tensor) -> Tensor:
    """With a share of the gradient of what a block's layers add."""
    values = network.maxpool(network.bn1(network.conv1(shown)).relu())
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            inside = block.bn2(block.conv2(block.bn1(block.conv1(values)).relu()))
            if isinstance(block, Bottleneck):
                inside = block.bn3(block.conv3(inside.relu()))
            past = values if block.downsample is None else block.downsample(values)
            values = (past + decayed(inside)).relu()
    return network.fc(values.mean(dim=(2, 3)))


def mobilenet_written_out(network: MobileNetV2, shown: Tensor) -> Tensor:
    values = shown
    for block in network.features:
        inside = block(values) if not getattr(block, "use_res_connect", False) else block.conv(values)
        values = values + decayed(inside) if getattr(block, "use_res_connect", False) else inside
    return network.classifier(values.mean(dim=(2, 3)))


def same(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_sgm_is_a_product_of_matrices() -> None:
    """(1 + γA)ᵀ (1 + γB)ᵀ, as in the paper's equation 3."""
    network, weights = Chain(), torch.tensor([1.0, -2.0])
    one = np.eye(3)
    first, second = (GAMMA * each.detach().numpy() for each in (network.first, network.second))
    expected = (one + first).T @ (one + second).T @ network.last.detach().numpy().T @ weights.numpy()
    found = slope(modified(network, MODIFIERS["sgm"](gamma=GAMMA)), pictures(), weights)
    assert np.allclose(found.numpy(), expected[None, :, None, None], rtol=1e-5)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_sgm_is_a_resnet_written_out(block: type[BasicBlock | Bottleneck]) -> None:
    network, shown = resnet(block), pictures(side=64)
    found = slope(modified(network, MODIFIERS["sgm"](gamma=GAMMA), side=64), shown)
    assert same(found, slope(lambda given: resnet_written_out(network, given), shown))
    assert not same(found, slope(network, shown))


def test_sgm_is_a_mobilenet_written_out() -> None:
    network = random_weights(MobileNetV2(num_classes=7, width_mult=0.25))
    assert isinstance(network, MobileNetV2)
    found = slope(modified(network, MODIFIERS["sgm"](gamma=GAMMA), side=64), shown := pictures(side=64))
    assert same(found, slope(lambda given: mobilenet_written_out(network, given), shown))


BLOCKS: list[tuple[str, Callable[[], nn.Module], int]] = [
    ("torchvision's ResNet", lambda: resnet(Bottleneck), 6),
    ("timm's ResNet", lambda: timm.create_model("resnet10t"), 4),
    ("timm's MobileNetV2", lambda: timm.create_model("mobilenetv2_050"), 10),
    ("timm's EfficientNet", lambda: timm.create_model("efficientnet_lite0"), 9),
    ("timm's ViT", vit, 4),
    ("a distilled DeiT, whose two heads are averaged", lambda: vit("deit_tiny_distilled_patch16_224"), 4),
]


@pytest.mark.parametrize(("make", "blocks"), [each[1:] for each in BLOCKS], ids=[each[0] for each in BLOCKS])
def test_residual_blocks_are_found_whoever_wrote_them(make: Callable[[], nn.Module], blocks: int) -> None:
    network = make().eval().requires_grad_(False)
    side = 16 if "blocks.0.attn.qkv" in dict(network.named_modules()) else 64
    assert modified(network, MODIFIERS["sgm"](), side=side)._counts["residual"] == blocks


def test_two_branches_alike_are_no_block() -> None:
    class Sum(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            return (windows.sin() + windows.cos()).flatten(1)

    with pytest.raises(InputError, match="changes residual connections, which this network does not have"):
        modified(Sum(), MODIFIERS["sgm"]())


def ghost(network: nn.Module, first: int, count: int, at: str = "a") -> Modified:
    return modified(network, MODIFIERS["ghost"](skip_range=0.4)).drawn(draws_for(count, first).at(at))


class Skip(nn.Module):
    """x + sin x, the mean of which is a logit: without the ghost's factor, 1 + cos x is its gradient."""

    def forward(self, windows: Tensor) -> Tensor:
        return (windows + (2 * windows).sin().asin().sin()).mean(dim=(2, 3))


def test_a_ghost_multiplies_each_channel_that_passes_a_block() -> None:
    shown = pictures(50, side=4)
    network = modified(Skip(), MODIFIERS["ghost"](skip_range=0.4), side=4)
    plain, drawn = slope(Skip(), shown), slope(network.drawn(draws_for(50)), shown)
    weights = torch.linspace(-1, 2, 3)[:, None, None] / 16
    factors = 1 + (drawn - plain) / weights
    each = factors[..., :1, :1]
    assert torch.allclose(factors[:, ::2], each[:, ::2].expand(-1, -1, 4, 4), atol=1e-4)  # one for each channel
    drawn_numbers = each[:, ::2].flatten()
    assert 0.6 <= float(drawn_numbers.min()) < 0.65 and 1.35 < float(drawn_numbers.max()) <= 1.4
    assert len(drawn_numbers.unique()) == 100 and abs(float(drawn_numbers.mean()) - 1) < 0.07


def test_a_ghost_is_an_images_own_whatever_is_in_its_batch() -> None:
    network, shown = vit(), pictures(4)
    together = slope(ghost(network, 0, 4), shown)
    for item in range(4):
        assert same(slope(ghost(network, item, 1), shown[item : item + 1]), together[item : item + 1])
    assert not same(slope(ghost(network, 0, 4, at="b"), shown), together)

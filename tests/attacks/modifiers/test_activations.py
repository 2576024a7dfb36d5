"""Modifiers of ReLUs and max pooling, against gradients written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from tests.attacks.modifiers.networks import modified, pictures, slope
from tests.attacks.modifiers.test_residual import resnet, same
from transforms.attacks.modifiers.registry import MODIFIERS


class Layers(nn.Module):
    """A ReLU network on the values of each pixel: three layers, or blocks of two of them behind the first."""

    def __init__(self, *, residual: bool, ceiling: float = float("inf")) -> None:
        super().__init__()
        rng = np.random.default_rng(1)
        count = 5 if residual else 3
        self.weights = nn.ParameterList(torch.from_numpy(rng.normal(size=(3, 3))).float() for _ in range(count))
        self.last = nn.Parameter(torch.from_numpy(rng.normal(size=(2, 3))).float())
        self.residual = residual
        self.cut = nn.ReLU(inplace=True) if ceiling == float("inf") else nn.ReLU6(inplace=True)

    def forward(self, windows: Tensor) -> Tensor:
        values = 9 * (windows.flatten(2).transpose(1, 2) - 0.5)
        if not self.residual:
            for weight in self.weights:
                values = self.cut(values @ weight.T)
        else:
            values = self.cut(values @ self.weights[0].T)
            for first, second in (self.weights[1:3], self.weights[3:5]):
                inside = self.cut(values @ first.T) @ second.T
                inside += values
                values = self.cut(inside)
        return (values @ self.last.T).sum(dim=1)


def by_linbp(network: Layers, shown: Tensor, weights: Tensor) -> Tensor:
    """One image: ReLUs inside blocks let all through, and what comes of a block's layers is as long as with them."""
    first, *inner = (each.detach() for each in network.weights)
    values = 9 * (shown.flatten(1).T - 0.5)  # (pixels, 3)
    stem = values @ first.T
    values = stem.relu()
    kept = []
    for one, other in (inner[:2], inner[2:]):
        hidden = values @ one.T
        total = values + hidden.relu() @ other.T
        kept.append((hidden > 0, total > 0, one, other))
        values = total.relu()
    gradient = (weights @ network.last.detach()).expand(len(values), 3)
    for hidden, total, one, other in reversed(kept):
        gradient = gradient * total
        linear = gradient @ other @ one
        usual = ((gradient @ other) * hidden) @ one
        gradient = gradient + linear * usual.norm() / linear.norm()
    return 9 * ((gradient * (stem > 0)) @ first).T.view_as(shown)


def test_linbp_in_residual_blocks_keeps_the_length() -> None:
    network, shown, weights = Layers(residual=True), pictures(3, side=5), torch.tensor([1.0, -2.0])
    found = slope(
        modified(network, MODIFIERS["linbp"](start=0.3), side=5), shown, weights
    )  # but for the first of three
    expected = torch.stack([by_linbp(network, each, weights) for each in shown])
    assert same(found, expected) and not same(found, slope(network, shown, weights))


@pytest.mark.parametrize(("ceiling", "start", "kept"), [(6.0, 0.0, 0), (float("inf"), 0.5, 2), (float("inf"), 0.3, 1)])
def test_linbp_without_blocks_leaves_later_relus_out(ceiling: float, start: float, kept: int) -> None:
    network, shown = Layers(residual=False, ceiling=ceiling), pictures(2, side=5)
    found = slope(modified(network, MODIFIERS["linbp"](start=start), side=5), shown, torch.tensor([1.0, -2.0]))
    values, masks = 9 * (shown.flatten(2).transpose(1, 2) - 0.5), []
    for weight in network.weights:
        values = values @ weight.detach().T
        masks.append((values > 0) & (values < ceiling))
        values = values.clamp(0, ceiling)
    gradient = (torch.tensor([1.0, -2.0]) @ network.last.detach()).expand_as(values)
    for number in reversed(range(3)):
        gradient = (gradient * masks[number] if number < kept else gradient) @ network.weights[number].detach()
    assert same(found, 9 * gradient.transpose(1, 2).view_as(shown))


@pytest.mark.parametrize("ceiling", [6.0, float("inf")])
def test_bpa_has_the_slope_of_a_silu(ceiling: float) -> None:
    """σ(x) (1 + x (1 − σ(x))), the paper's equation 7; of a ReLU6 the same above 6 as well, where it ends."""

    class Cut(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            return (F.relu(windows) if ceiling == float("inf") else F.relu6(windows)).flatten(1)

    def silu(x: np.ndarray) -> np.ndarray:
        sigma = 1 / (1 + np.exp(-x))
        return sigma * (1 + x * (1 - sigma))

    values = 20 * pictures(1, side=4) - 8
    made = modified(Cut(), MODIFIERS["bpa"](start=0.0), side=4)
    found = slope(made, values, torch.ones(48)).numpy()
    points = values.double().numpy()
    expected = silu(points) - (0 if ceiling == float("inf") else silu(points - ceiling))
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(made(values), Cut()(values))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(2, 1, dilation=2),
    ],
)
def test_bpa_pools_by_a_softmax_of_each_window(pool: nn.MaxPool2d) -> None:
    class Pooled(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            return pool(F.relu(windows + 0.0)).flatten(1)

    values = pictures(1, side=8)
    made = modified(Pooled(), MODIFIERS["bpa"](start=0.99, temperature=5.0), side=8)
    size = pool(values).shape[-1]
    weights = torch.linspace(-1, 2, 3 * size**2)
    found = slope(made, values, weights)[0].double().numpy()
    kernel, stride, padding, dilation = (
        int(np.ravel(each)[0]) for each in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    expected, outgoing = np.zeros((3, 8, 8)), weights.view(3, size, size).numpy()
    for channel, row, column in np.ndindex(3, size, size):
        reach = range(0, kernel * dilation, dilation)
        places = [
            (row * stride - padding + down, column * stride - padding + right) for down in reach for right in reach
        ]
        inside = [min(each) >= 0 and max(each) < 8 for each in places]
        held = [float(values[0, channel, *each]) if fits else 0.0 for each, fits in zip(places, inside, strict=True)]
        shares = np.exp(5 * np.array(held)) / np.exp(5 * np.array(held)).sum()
        for place, fits, share in zip(places, inside, shares, strict=True):
            if fits:
                expected[channel, *place] += share * outgoing[channel, row, column]
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["linbp", "bpa"])
def test_relus_behind_a_residual_sum_stay(name: str) -> None:
    """Of a ResNet's 13 ReLUs, 6 are behind a sum; the first of the other 7 is the stem's."""
    network = modified(resnet(BasicBlock), MODIFIERS[name](), side=64)
    assert network._counts["relu"] == 7 and network._counts["max pool"] == 1

"""Depthwise convolutions of stride 2 in bf16: another kernel for the gradient, and else nothing that is not torch's."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.conftest import Samples
from tests.models.test_fused import classifier, cosines, lively, with_gradient
from transforms.attacks.modifiers.modified import Modified
from transforms.attacks.modifiers.registry import MODIFIERS
from transforms.attacks.objectives import Goal, cross_entropy
from transforms.attacks.surrogates import Surrogates
from transforms.models.engines import strided
from transforms.models.engines.fused_convolution import Phases
from transforms.models.engines.strided import QuickStrides
from transforms.models.pin import pin
from transforms.models.views import VIEWS
from transforms.steps.held_models import HeldModels

has_bf16 = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 here")
_STRIDED = 4
"""Depthwise convolutions of stride 2 in MobileNetV2 and in EfficientNet-Lite0."""


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Phases]:
    """The gradients that were taken by phases; where the processor has no bf16, as if it had."""
    taken: list[Phases] = []
    by_phases = Phases.__call__

    def noted(phases: Phases, gradient: Tensor, wanted: Tensor) -> Tensor:
        taken.append(phases)
        return by_phases(phases, gradient, wanted)

    monkeypatch.setattr(Phases, "__call__", noted)
    monkeypatch.setattr(strided, "is_emulated", lambda *_: False)
    return taken


def mobilenet() -> nn.Module:
    torch.manual_seed(0)
    return lively(torchvision.models.mobilenet_v2(num_classes=10)).eval().requires_grad_(False)


def taken(network: Callable[[Tensor], Tensor], pictures: Tensor, *, quick: bool) -> tuple[Tensor, Tensor]:
    with torch.autocast("cpu", torch.bfloat16), QuickStrides() if quick else nullcontext():
        return with_gradient(network, pictures, torch.ones(len(pictures), 10))


@has_bf16
@pytest.mark.parametrize("side", [32, 41])
def test_answers_are_torchs_and_gradients_agree(side: int, used: list[Phases]) -> None:
    network, pictures = mobilenet(), torch.rand(3, 3, side, side)
    expected, first = taken(network, pictures, quick=False)
    assert not used
    found, second = taken(network, pictures, quick=True)
    assert len(used) == _STRIDED
    assert torch.equal(first, second) and found.stride() == expected.stride()
    assert cosines(found, expected).min() > 0.9999


@has_bf16
def test_only_gradients_in_bf16_with_respect_to_inputs_alone(
    used: list[Phases], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, pictures = mobilenet(), torch.rand(2, 3, 32, 32)
    with QuickStrides():
        with_gradient(network, pictures, torch.ones(2, 10))
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            network(pictures)
    taken(mobilenet().requires_grad_(), pictures, quick=True)
    one_picture = nn.Conv2d(4, 4, 3, 2, groups=4).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16), QuickStrides():
        with_gradient(one_picture, torch.rand(4, 9, 9), torch.ones(4, 4, 4))
    monkeypatch.setattr(strided, "is_emulated", lambda *_: True)
    taken(network, pictures, quick=True)
    assert not used


@has_bf16
def test_parts_that_are_modified_are_found_as_before(used: list[Phases]) -> None:
    modified = Modified(classifier(mobilenet(), 32), {"sgm": MODIFIERS["sgm"]()})
    pictures = torch.rand(2, 3, 32, 32)
    (expected, first), (found, second) = (taken(modified, pictures, quick=quick) for quick in (False, True))
    assert len(used) == _STRIDED and torch.equal(first, second)
    assert cosines(found, expected).min() > 0.9999


@has_bf16
def test_surrogates_that_torch_runs_take_them(samples: Samples, used: list[Phases]) -> None:
    followed = HeldModels({"lite0": pin("packaged/efficientnet-lite0", gradients="torch")}, "cpu")["lite0"]
    pictures, goal = samples.canvases[:2].float() / 255, Goal(samples.labels[:2])
    surrogates = Surrogates([followed], VIEWS["center"], 224 / 256, precision="bf16")
    surrogates.slope(pictures, cross_entropy, goal)
    assert len(used) == _STRIDED

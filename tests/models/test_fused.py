"""The fused engine: another order of sums, and else the answers and the gradients of the plain network."""

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.conftest import Samples
from transforms.errors import InputError
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.engines import agreement, fused_convolution
from transforms.models.engines.fused import fused, prepare
from transforms.models.engines.fused_convolution import Convolution, FusedConvolution, Phases
from transforms.models.engines.registry import FOLLOWED, prepared
from transforms.models.pin import pin
from transforms.steps.held_models import HeldModels

_SIDE = 24


def classifier(network: nn.Module, side: int = _SIDE) -> Classifier:
    return Classifier(network.eval(), Preprocessing(side, side, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def lively(network: nn.Module) -> nn.Module:
    """The same with statistics and affine parameters that a trained network might have."""
    generator = torch.Generator().manual_seed(1)
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            for tensor in (each.running_mean, each.bias):
                if tensor is not None:
                    tensor.detach().normal_(0, 0.3, generator=generator)
            for tensor in (each.running_var, each.weight):
                if tensor is not None:
                    tensor.detach().uniform_(0.5, 1.5, generator=generator)
    return network


def with_gradient(network: Callable[[Tensor], Tensor], pictures: Tensor, of_output: Tensor) -> tuple[Tensor, Tensor]:
    pictures = pictures.clone().requires_grad_()
    output = network(pictures)
    return torch.autograd.grad(output, pictures, of_output)[0], output.detach()


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Of the angles between gradients, which may be as short as 1e-9."""
    return F.cosine_similarity(first.flatten(1).double(), second.flatten(1).double(), eps=1e-30)


def convolutions(network: nn.Module) -> list[FusedConvolution]:
    return [each for each in network.modules() if isinstance(each, FusedConvolution)]


@settings(max_examples=60, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    side=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    norm=st.sampled_from([None, "affine", "plain"]),
    activation=st.sampled_from([nn.Identity, nn.ReLU, nn.ReLU6]),
    zeros=st.sampled_from([None, (1, 1, 1, 1), (0, 1, 0, 1), (1, 2, 1, 2), (2, 0, 1, 0)]),
    seed=st.integers(0, 10),
)
def test_any_convolution_and_what_surrounds_it(
    groups: int,
    side: int,
    stride: int,
    padding: int,
    dilation: int,
    bias: bool,
    norm: str | None,
    activation: type[nn.Module],
    zeros: tuple[int, int, int, int] | None,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [] if zeros is None else [nn.ZeroPad2d(zeros)]
    layers += [nn.Conv2d(8, 12, side, stride, padding, dilation, groups, bias=bias)]
    layers += [] if norm is None else [nn.BatchNorm2d(12, affine=norm == "affine")]
    # One more behind it, whose gradient is changed in place, and which is always fused.
    network = nn.Sequential(*layers, activation(), nn.Conv2d(12, 4, 1), nn.ReLU())
    lively(network).eval().requires_grad_(False)
    pictures = torch.randn(2, 8, 13, 15)
    of_output = torch.randn_like(network(pictures))
    expected, plain = with_gradient(network, pictures, of_output)
    found, quick = with_gradient(fused(network), pictures, of_output)
    assert torch.allclose(quick, plain, atol=1e-4)
    assert torch.allclose(found, expected, atol=1e-4)


def test_relu6_stops_gradients_at_both_ends_and_folding_is_a_scale_and_a_shift() -> None:
    """By hand: y = relu6(2 (3 x - 1) / 1 + 5) = relu6(6 x + 3), whose slope is 6 between -0.5 and 0.5."""
    convolution, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0)
    with torch.no_grad():
        convolution.weight.fill_(3)
        norm.weight.fill_(2)
        norm.bias.fill_(5)
    norm.running_mean, norm.running_var = torch.tensor([1.0]), torch.tensor([1.0])
    network = fused(nn.Sequential(convolution, norm, nn.ReLU6()).eval())
    assert len(convolutions(network)) == 1 and len(list(network.modules())) < 7  # norm and ReLU6 are gone
    values = torch.tensor([-1.0, -0.4, 0.0, 0.4, 1.0]).view(1, 1, 1, 5)
    slopes, outputs = with_gradient(network, values, torch.ones(1, 1, 1, 5))
    assert torch.allclose(outputs.flatten(), torch.tensor([0, 0.6, 3, 5.4, 6]))
    assert torch.allclose(slopes.flatten(), torch.tensor([0.0, 6, 6, 6, 0]))


class Branches(nn.Module):
    """Where results are used twice, nothing is fused that somebody else still needs, nor changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 10)

    def forward(self, windows: Tensor) -> Tensor:
        first = self.first(windows)
        cut = F.relu(first)
        second = F.relu6(self.norm(self.second(cut))) + cut + first
        return self.last(F.relu(second).mean((2, 3)))


@pytest.mark.parametrize("emulated", [True, False])
@pytest.mark.parametrize("last", [nn.ReLU, nn.ReLU6, nn.Identity])
def test_a_reduced_precision(last: type[nn.Module], emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast convolutions are really done in bf16: by torch's kernels, or fused where the processor can."""
    if not (emulated or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        pytest.skip("oneDNN has no bf16 here")
    monkeypatch.setattr(fused_convolution, "is_emulated", lambda *_: emulated)
    torch.manual_seed(0)
    depthwise = nn.Conv2d(6, 6, 3, 2, 1, groups=6)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU6(), depthwise, nn.ReLU(), nn.Conv2d(6, 8, 3), last()).eval()
    network.requires_grad_(False)
    pictures = torch.randn(2, 3, 14, 14)
    with torch.autocast("cpu", torch.bfloat16):
        output = fused(network)(pictures)
        of_output = torch.randn_like(output)
        (expected, plain), (found, quick) = (
            with_gradient(each, pictures, of_output) for each in (network, fused(network))
        )
    assert output.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert torch.allclose(quick.float(), plain.float(), atol=1e-2) and torch.allclose(found, expected, atol=2e-2)
    in_full, _ = with_gradient(fused(network), pictures, of_output.float())
    assert not torch.equal(found, in_full), "nothing was reduced"


def of_a_stride_of_two(weight: Tensor, pictures: Tensor, padding: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A gradient of the output of a convolution with a kernel for each of four channels, and what torch makes of it."""
    output = F.conv2d(pictures, weight, None, 2, padding, 1, 4)
    of_output = torch.randn_like(output)
    (of_input,) = torch.autograd.grad(output, pictures, of_output)
    return of_output, of_input


@settings(max_examples=60, deadline=None)
@given(
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    more=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    sides=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_phases_are_the_gradient_of_a_stride_of_two(
    padding: tuple[int, int], more: tuple[int, int], sides: tuple[int, int]
) -> None:
    """For every kernel whose output has half the input's sides: of twice the padding, and one or two more."""
    torch.manual_seed(0)
    weight = torch.randn(4, 1, *(2 * each + extra for each, extra in zip(padding, more, strict=True)))
    pictures = torch.randn(2, 4, *(2 * each for each in sides), requires_grad=True)
    of_output, expected = of_a_stride_of_two(weight, pictures, padding)
    assert of_output.shape[2:] == sides
    phases = Convolution(weight, torch.zeros(4), (2, 2), padding, (1, 1), 4).phases
    assert phases is not None and [first for first, _ in phases] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for (row, column), each in phases:
        found = F.conv2d(of_output, each.weight, None, each.stride, each.padding, each.dilation, each.groups)
        assert torch.allclose(found, expected[:, :, row::2, column::2], atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    more=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
def test_phases_fill_in_the_gradient_of_an_input_of_any_size(
    kernel: tuple[int, int], padding: tuple[int, int], more: tuple[int, int]
) -> None:
    """Also where the last row or column is looked at by no kernel, or was padded before."""
    torch.manual_seed(0)
    sides = [max(side - 2 * zeros, 1) + extra for side, zeros, extra in zip(kernel, padding, more, strict=True)]
    weight, pictures = torch.randn(4, 1, *kernel), torch.randn(2, 4, *sides, requires_grad=True)
    of_output, expected = of_a_stride_of_two(weight, pictures, padding)
    phases = Phases.of(Convolution(weight, torch.zeros(4), (2, 2), padding, (1, 1), 4))
    assert phases is not None
    found = phases(of_output.contiguous(memory_format=torch.channels_last), torch.full_like(expected, torch.nan))
    assert torch.allclose(found, expected, atol=1e-5)


def test_only_channels_for_themselves_have_phases() -> None:
    dense, strided = torch.randn(4, 4, 3, 3), torch.randn(4, 1, 3, 3)
    assert Convolution(dense, torch.zeros(4), (2, 2), (1, 1), (1, 1), 1).phases is None
    assert Convolution(strided, torch.zeros(4), (1, 1), (1, 1), (1, 1), 4).phases is None
    assert Convolution(strided, torch.zeros(4), (2, 2), (1, 1), (2, 2), 4).phases is None


def test_results_that_are_used_twice() -> None:
    torch.manual_seed(0)
    network = lively(Branches()).eval().requires_grad_(False)
    pictures, of_output = torch.randn(3, 3, 9, 9), torch.randn(3, 10)
    expected, _ = with_gradient(network, pictures, of_output)
    found, _ = with_gradient(fused(network), pictures, of_output)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_gradient_can_be_taken_twice() -> None:
    """As `jacobian` does: the first pass leaves to the second all that it needs, though it works in place."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU6(), nn.Flatten()).eval()
    pictures = torch.randn(2, 3, 6, 6, requires_grad=True)
    output, plain = fused(network)(pictures), network(pictures)
    for column in (0, 1):
        (found,) = torch.autograd.grad(output[:, column].sum(), pictures, retain_graph=True)
        (expected,) = torch.autograd.grad(plain[:, column].sum(), pictures, retain_graph=True)
        assert torch.allclose(found, expected, atol=1e-5)


def _untrained(name: str) -> nn.Module:
    torch.manual_seed(0)
    make = getattr(torchvision.models, name, None) or partial(timm.create_model, name)
    return lively(make())


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v2", "densenet121", "vgg11_bn", "shufflenet_v2_x0_5"),
        *("mobilenetv2_100", "regnetx_002", "mobilenetv3_small_050"),  # timm's, whose batch norm holds the activation
    ],
)
def test_networks_of_libraries(name: str) -> None:
    """Untrained, at 64 pixels."""
    model = classifier(_untrained(name), 64)
    quick = prepared(model, FOLLOWED, "auto")
    assert quick.engine == "fused" and len(convolutions(quick.classifier)) > 5
    windows = torch.rand(2, 3, 64, 64)
    of_output = torch.randn(2, 1000)
    (expected, plain), (found, logits) = (with_gradient(each, windows, of_output) for each in (model, quick.classifier))
    assert torch.allclose(logits, plain, atol=1e-3 * float(plain.abs().max()))
    assert not any(isinstance(each, nn.BatchNorm2d) for each in quick.classifier.modules()) or "densenet" in name
    assert cosines(found, expected).min() > 0.9999


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto"])
def test_networks_without_anything_to_fuse_stay_with_torch(name: str) -> None:
    model = classifier(timm.create_model(name, pretrained=False), 224)
    assert prepared(model, FOLLOWED, "auto").engine == "torch"
    with pytest.raises(InputError, match=r"fused cannot run this network \(.*\); give gradients: torch"):
        prepare(model)


class Tricky(nn.Module):
    """Looks at its input to decide what to do, which no tracing can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 10, _SIDE)

    def forward(self, windows: Tensor) -> Tensor:
        scores = F.relu(self.convolution(windows)).flatten(1)
        return scores if float(windows.mean()) > 0.2 else -scores


def test_a_network_whose_code_depends_on_its_input_stays_with_torch() -> None:
    model = classifier(Tricky())
    assert prepared(model, FOLLOWED, "auto").classifier is model
    with pytest.raises(InputError, match=r"fused cannot run this network \(.*\); give gradients: torch"):
        prepare(model)


class Bent(nn.Module):
    """Answers as another network does, with gradients of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: Tensor) -> Tensor:
        flipped = windows.flip(3)
        logits: Tensor = self.network(flipped + (windows - flipped).detach())
        return logits


def test_other_gradients_are_seen_though_the_answers_are_the_same() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    network(torch.zeros(1, 3, _SIDE, _SIDE))
    plain, bent = classifier(network), classifier(Bent(network))
    assert agreement.disagreement(plain, bent) is None
    assert "gradients differ" in str(agreement.steepness_apart(plain, bent))
    assert agreement.steepness_apart(plain, plain) is None


def test_a_real_network_agrees_on_real_pictures(samples: Samples) -> None:
    pins = {name: pin("packaged/efficientnet-lite0", gradients=name) for name in ("torch", "auto")}
    held = HeldModels(pins, "cpu")
    plain, quick = held["torch"], held["auto"]
    assert held.resolved("auto", followed=True).gradients == "fused" and quick is not plain
    pictures, labels = samples.canvases[:8].float() / 255, samples.labels[:8]

    def losses(model: Classifier) -> Callable[[Tensor], Tensor]:
        return lambda windows: F.cross_entropy(model(windows), labels, reduction="none")

    (expected, first), (found, second) = (
        with_gradient(losses(each), pictures, torch.ones(8)) for each in (plain, quick)
    )
    assert torch.allclose(second, first, atol=1e-4)
    assert cosines(found, expected).min() > 0.999 and cosines(found, expected).median() > 0.9999
    with torch.inference_mode():
        assert torch.equal(plain(pictures).argmax(1), quick(pictures).argmax(1))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_first_batch_has_no_say_in_later_ones(precision: torch.dtype) -> None:
    """Weights are arranged once, for the pictures that come first."""
    torch.manual_seed(0)
    network = lively(torchvision.models.mobilenet_v2(num_classes=1000)).eval()
    pictures, of_output = torch.rand(8, 3, _SIDE, _SIDE), torch.rand(8, 1000)

    def asked_before(count: int) -> tuple[Tensor, Tensor]:
        followed = fused(network)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            with_gradient(followed, pictures[:count], of_output[:count])
            return with_gradient(followed, pictures, of_output)

    of_eight = asked_before(8)
    for count in (1, 3):
        assert all(map(torch.equal, asked_before(count), of_eight))

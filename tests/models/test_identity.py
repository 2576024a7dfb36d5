"""What engines have made and compared once: under all that it depends on, and the same to the last bit."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from transforms.errors import InputError
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.engines import fused, onnxruntime_engine
from transforms.models.engines.identity import identity


class Network(nn.Module):
    """With a parameter, a buffer that is not saved, a number, a choice and a tensor that is none of these."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(144, 10)
        self.shift: Tensor
        self.register_buffer("shift", torch.rand(10), persistent=False)
        self.slope, self.turned, self.constant = 0.5, False, torch.rand(10)

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.convolution(pictures.flip(1) if self.turned else pictures)))
        return self.last(hidden.flatten(1)) * self.slope + self.shift + self.constant


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, Preprocessing(8, 8, "bilinear", mean=(0, 0, 0), std=(1, 1, 1)))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEGALITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> list[Path]:
    return [each for each in cache.rglob("*") if each.is_file()]


def _changed(network: Network) -> Iterator[Network]:
    def last_bit(tensor: Tensor) -> None:
        tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0], torch.tensor(9.0))

    changes: list[Callable[[Network], None]] = [
        lambda network: last_bit(network.last.weight.data),
        lambda network: last_bit(network.shift),
        lambda network: last_bit(network.constant),
        lambda network: last_bit(network.norm.running_var),  # type: ignore[arg-type]
        lambda network: setattr(network, "slope", 0.25),
        lambda network: setattr(network, "turned", True),
        lambda network: setattr(network.norm, "eps", 2e-5),
        lambda network: setattr(network.convolution, "padding_mode", "reflect"),
        lambda network: setattr(network, "norm", nn.Identity()),
    ]
    for change in changes:
        other = copy.deepcopy(network)
        change(other)
        yield other


def test_a_name_stands_for_all_that_an_engine_depends_on() -> None:
    network = Network()
    names = [identity(classifier(each)) for each in (network, *_changed(network))]
    assert len(set(names)) == len(names)
    assert identity(classifier(Network())) == names[0]


def test_other_libraries_are_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(classifier(Network()))
    monkeypatch.setattr("transforms.models.engines.identity.version", lambda name: f"{name} of tomorrow")
    assert identity(classifier(Network())) != before


def test_an_export_is_made_once_and_answers_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.rand(5, 3, 8, 8)
    made = onnxruntime_engine.prepare(classifier(Network()))(pictures)
    monkeypatch.setattr(onnxruntime_engine, "_exported", lambda _: pytest.fail("exported again"))
    monkeypatch.setattr(onnxruntime_engine, "disagreement", lambda *_: pytest.fail("compared again"))
    assert torch.equal(onnxruntime_engine.prepare(classifier(Network()))(pictures), made)


def test_gradients_are_compared_once_and_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient() -> Tensor:
        pictures = torch.linspace(0, 1, 192).view(1, 3, 8, 8).requires_grad_()
        answers = fused.prepare(classifier(Network()))(pictures)
        return torch.autograd.grad(answers[:, 3].sum(), pictures)[0]

    before = gradient()
    monkeypatch.setattr(fused, "disagreement", lambda *_: pytest.fail("compared again"))
    assert torch.equal(gradient(), before)


def test_a_damaged_export_is_made_again(cache: Path) -> None:
    onnxruntime_engine.prepare(classifier(Network()))
    (file,) = kept(cache)
    whole = bytearray(file.read_bytes())
    for damage in (whole[:-1], whole[: len(whole) // 2] + bytes(1) + whole[len(whole) // 2 + 1 :], b""):
        file.write_bytes(damage)
        onnxruntime_engine.prepare(classifier(Network()))
        assert file.read_bytes() == whole


class Plain(nn.Module):
    def forward(self, windows: Tensor) -> Tensor:
        return -windows.flatten(1)


class Tricky(nn.Module):
    """The same for dark pictures, such as those with which a network is traced."""

    def forward(self, windows: Tensor) -> Tensor:
        return windows.flatten(1) if float(windows.mean()) > 0.2 else -windows.flatten(1)


def test_what_does_not_agree_is_not_kept_and_found_under_no_other_name(cache: Path) -> None:
    onnxruntime_engine.prepare(classifier(Plain()))
    before = kept(cache)
    assert len(before) == 1
    for _ in range(2):
        with pytest.raises(InputError, match="onnxruntime answers otherwise"):
            onnxruntime_engine.prepare(classifier(Tricky()))
    assert kept(cache) == before


def test_without_a_cache_everything_is_made_each_time(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    for _ in range(2):
        assert not onnxruntime_engine.prepare(classifier(Network())).differentiable

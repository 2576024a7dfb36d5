"""Engines: whoever runs a network, its answers have to be those of torch."""

import gc
import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from apache_beam.utils.shared import Shared
from torch import Tensor, nn

from tests.conftest import Samples
from tests.support.runs import Json, contents, refused, run, tiny, written
from transforms.errors import InputError
from transforms.models.answers import predict_batch
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.conditions import Conditions
from transforms.models.engines.agreement import disagreement
from transforms.models.engines.registry import FOLLOWED, PREDICTING, Prepared, prepared
from transforms.models.pin import Engine, GradientEngine, pin
from transforms.steps.held_models import HeldModels

pytestmark = pytest.mark.system

CONDITIONS = Conditions(0, 224 / 256, 8)


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, Preprocessing(8, 8, "bilinear", mean=(0, 0, 0), std=(1, 1, 1)))


def test_labels_are_the_same_and_probabilities_within_one_in_ten_thousand(lite1: Classifier, samples: Samples) -> None:
    predictor = prepared(lite1, PREDICTING, "auto")
    quick = predictor.classifier
    assert predictor.engine == "onnxruntime" and not quick.differentiable and lite1.differentiable
    one, other = (predict_batch(each, "center", samples.canvases, CONDITIONS) for each in (lite1, quick))
    assert torch.equal(one.argmax(dim=1), other.argmax(dim=1))
    assert (one.exp() - other.exp()).abs().max() < 1e-4


class Shifted(nn.Module):
    """Another network's logits with one of them raised."""

    def __init__(self, network: nn.Module, by: float) -> None:
        super().__init__()
        self.network = network
        self.by: Tensor
        self.register_buffer("by", torch.tensor([by, *[0.0] * 9]))

    def forward(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.network(windows)
        return logits + self.by


@pytest.mark.parametrize(("by", "agrees"), [(1e-4, True), (3e-3, False)])
def test_probabilities_that_differ_by_more_than_one_in_ten_thousand_are_another_answer(by: float, agrees: bool) -> None:
    """d softmax / d logit = p (1 - p), which for ten classes of about 0.1 is 0.09: 9e-6 and 2.7e-4."""
    torch.manual_seed(0)
    linear = nn.Linear(192, 10)
    with torch.no_grad():
        linear.weight.mul_(1e-3)
        linear.bias.copy_(torch.linspace(0.2, 0, 10))  # so that no label flips
    network = nn.Sequential(nn.Flatten(), linear)
    reason = disagreement(classifier(network), classifier(Shifted(network, by)))
    assert reason is None if agrees else reason is not None and "probabilities differ" in reason


class Tricky(nn.Module):
    """Looks at its input to decide what to do, which is gone after tracing."""

    def forward(self, windows: Tensor) -> Tensor:
        flat = windows.flatten(1)
        return flat if float(windows.mean()) > 0.2 else -flat


class Spectral(nn.Module):
    """Computes what ONNX's tracing exporter does not know."""

    def forward(self, windows: Tensor) -> Tensor:
        return torch.fft.fft2(windows).abs().flatten(1)


@pytest.mark.parametrize("network", [Tricky(), Spectral()], ids=lambda each: type(each).__name__)
def test_a_network_that_would_answer_otherwise_stays_with_torch(network: nn.Module) -> None:
    model = classifier(network)
    assert prepared(model, PREDICTING, "auto") == Prepared("torch", model)
    with pytest.raises(InputError, match=r"onnxruntime .*; give engine: torch"):
        prepared(model, PREDICTING, "onnxruntime")


def test_a_plain_network_does_not_stay_with_torch() -> None:
    model = classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 1000)))
    predictor = prepared(model, PREDICTING, "auto")
    quick = predictor.classifier
    windows = torch.rand(5, 3, 8, 8)
    assert (
        predictor.engine == "onnxruntime"
        and quick is not model
        and torch.allclose(quick(windows), model(windows), atol=1e-5)
    )
    assert prepared(model, PREDICTING, "torch") == Prepared("torch", model)


def test_what_predicts_and_what_is_followed_have_engines_of_their_own() -> None:
    pinned = pin("packaged/efficientnet-lite0")
    models = HeldModels({"plain": replace(pinned, engine="torch", gradients="torch"), "quick": pinned}, "cpu")
    assert models["plain"].differentiable and models["quick"].differentiable
    assert models.target("plain") is models["plain"] and not models.target("quick").differentiable
    resolved = [models.resolved(name, followed=True) for name in ("plain", "quick")]
    assert [(each.engine, each.gradients) for each in resolved] == [("torch", "torch"), ("onnxruntime", "fused")]


def test_a_worker_elsewhere_does_not_choose_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was resolved travels along: an engine that is not to be had there is said, and no other taken."""
    models = HeldModels({"quick": pin("packaged/efficientnet-lite0")}, "cpu")
    assert models.resolved("quick", followed=False).engine == "onnxruntime"
    sent = pickle.dumps(models)
    del models  # as in a process that has not loaded anything: Beam keeps the last object that was shared, another now
    Shared().acquire(nn.Identity)
    gc.collect()

    def unavailable(classifier: Classifier) -> Classifier:
        raise InputError("not here")

    monkeypatch.setitem(PREDICTING, "onnxruntime", unavailable)
    with pytest.raises(InputError, match=r"models\.quick\.engine: not here"):
        pickle.loads(sent).target("quick")  # noqa: S301 - our own


def _engines(output: Path, use: str = "engine") -> dict[str, str]:
    models: Json = json.loads((output / "run.json").read_text())["definitions"]["models"]
    return {name: model[use] for name, model in models.items()}


def _clean(output: Path) -> dict[str, bytes]:
    return {path: rows for path, rows in contents(output).items() if path.startswith("predictions/attack=none/")}


@pytest.fixture(scope="module")
def attacked_later(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A run in which lite1 only predicts, and which then attacks it."""
    folder = tmp_path_factory.mktemp("engines")
    path, output = written(folder, tiny(targets=["lite0", "lite1"], defenses={})), folder / "run"
    run(path, output)
    before = contents(output)
    run(path, output, "--set=attacks.more={recipe: fgsm, surrogates: [lite1], eps: 4/255}")
    assert before.items() <= contents(output).items()
    yield path, output


def test_a_model_predicts_alike_whether_an_attack_follows_it_or_not(
    attacked_later: tuple[Path, Path], tmp_path: Path
) -> None:
    """Neither what else a run does, nor what the directory held before, chooses the engine."""
    path, output = attacked_later
    assert _engines(output) == {"lite0": "onnxruntime", "lite1": "onnxruntime"}
    run(path, tmp_path / "at-once", "--set=attacks={more: {recipe: fgsm, surrogates: [lite1], eps: 4/255}}")
    assert _engines(tmp_path / "at-once") == _engines(output)
    assert _clean(tmp_path / "at-once") == _clean(output)
    alone = "predictions/attack=more/"
    theirs, ours = contents(tmp_path / "at-once"), contents(output)
    assert {key: theirs[key] for key in theirs if key.startswith(alone)} == {
        key: ours[key] for key in ours if key.startswith(alone)
    }


def test_another_engine_under_an_old_name_is_refused(attacked_later: tuple[Path, Path]) -> None:
    path, output = attacked_later
    said = refused(path, output, "--set=models.lite0={source: coarse0, engine: torch}")
    assert re.search(r'models\.lite0\.engine: .* was made with "onnxruntime", the experiment says "torch"', said)


def test_engine_torch_is_the_plain_network_throughout_and_is_written_down(tmp_path: Path) -> None:
    """An engine of gradients is settled when an attack first follows the model, and then stays."""
    models = {name: {"source": f"packaged/{_LITE0}", **keys} for name, keys in _NAMED.items()}
    path = written(tmp_path, tiny(models=models, targets=list(_NAMED), defenses={}, attacks={}))
    output = tmp_path / "run"
    run(path, output)
    assert _engines(output, "gradients") == {"open": "auto", "plain": "torch", "asked": "fused", "mixed": "fused"}
    attack = "{recipe: fgsm, surrogates: [open, plain], eps: 4/255}"
    run(path, output, f"--set=attacks.a={attack}")
    assert _engines(output, "gradients") == {"open": "fused", "plain": "torch", "asked": "fused", "mixed": "fused"}
    said = refused(path, output, "--set=models.open={source: packaged/efficientnet-lite0, gradients: torch}")
    assert re.search(r'models\.open\.gradients: .* was made with "fused", the experiment says "torch"', said)


_LITE0 = "efficientnet-lite0"
_NAMED = {
    "open": {},
    "plain": {"engine": "torch"},
    "asked": {"gradients": "fused"},
    "mixed": {"engine": "torch", "gradients": "fused"},
}


def test_the_engines_are_those_that_may_be_named() -> None:
    assert {"auto", *PREDICTING} == set(get_args(Engine))
    assert {"auto", *FOLLOWED} == set(get_args(GradientEngine))

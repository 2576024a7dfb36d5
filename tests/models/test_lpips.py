"""The column `lpips`, beside the paper's sum written out and the package's own answer; with weights made here."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from pipeline.results.tables import open_run
from pipeline.verify.tables import picture
from tests.support.attacks import some_canvases
from tests.support.runs import invoke, refused, rows, run, tiny, written
from transforms.errors import InputError
from transforms.models.conditions import Conditions
from transforms.models.lpips import BACKBONES, Lpips
from transforms.models.pin import pin

needs_lpips = pytest.mark.skipif(find_spec("lpips") is None, reason="lpips is not installed")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a SqueezeNet that has learned nothing."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def measure(weights: Path) -> Lpips:
    return Lpips("squeeze", pin(BACKBONES["squeeze"], str(weights)))


def by_hand(weights: Path, one: Tensor, other: Tensor) -> float:
    """Zhang et al. 2018, eq. 1: features of unit length, squared differences, weighed over channels, mean over places,
    sum over layers; of canvases, float (1, 3, S, S) in [0, 1]."""
    network = torchvision.models.squeezenet1_1(weights=None).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    spec = find_spec("lpips")
    assert spec is not None and spec.origin is not None
    learned = torch.load(
        Path(spec.origin).parent / "weights" / "v0.1" / "squeeze.pth", map_location="cpu", weights_only=True
    )
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    shown = torch.cat([one, other]) * 2 - 1
    values, total, layer = (shown - shift.view(3, 1, 1)) / scale.view(3, 1, 1), 0.0, 0
    with torch.no_grad():
        for number, module in enumerate(network.features):
            values = module(values)
            if number in (1, 4, 7, 9, 10, 11, 12):
                unit = values / (values.norm(dim=1, keepdim=True) + 1e-10)
                weight = learned[f"lin{layer}.model.1.weight"]
                total += float((weight * (unit[:1] - unit[1:]) ** 2).sum(dim=1).mean())
                layer += 1
    assert layer == 7
    return total


@needs_lpips
def test_it_is_the_papers_sum(weights: Path, measure: Lpips) -> None:
    clean, other = (some_canvases(3, seed, side=64) for seed in (0, 1))
    other[2] = clean[2]
    found = measure.distances(clean.numpy(), other.numpy(), Conditions(0, 1.0, 2))
    expected = [by_hand(weights, a / 255, b / 255) for a, b in zip(clean.split(1), other.split(1), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert found[2] == 0 and (found[:2] > 0.01).all()


@needs_lpips
def test_a_distance_does_not_depend_on_the_others(measure: Lpips) -> None:
    clean, other = (some_canvases(5, seed, side=64).numpy() for seed in (0, 1))
    conditions = Conditions(0, 1.0, 4)
    alone = [measure.distances(clean[[n]], other[[n]], conditions)[0] for n in range(5)]
    assert measure.distances(clean, other, conditions).tolist() == [float(each) for each in alone]


@needs_lpips
@pytest.mark.system
def test_rows_have_it_where_the_experiment_asks(weights: Path, measure: Lpips, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"net": "squeeze", "weights": str(weights)}
    attacks = {"fgsm": {"recipe": "fgsm", "surrogates": ["lite0"], "eps": "4/255"}}
    run(written(tmp_path, tiny(attacks=attacks, lpips=asked)), tmp_path / "run")
    run(written(tmp_path, tiny(attacks=attacks), "plain.yaml"), tmp_path / "plain")
    found, plain = (rows(tmp_path / each, "attacks") for each in ("run", "plain"))
    assert [row.pop("lpips") for row in plain] == [None] * 3
    values = [row.pop("lpips") for row in found]
    assert found == plain  # nothing else is another
    assert all(0 < value < 1 for value in values)
    stored = {
        (row["attack"], row["image_id"]): picture(row["canvas"], 224) for row in rows(tmp_path / "run", "canvases")
    }
    for row, value in zip(found, values, strict=True):
        clean, attacked = (stored[attack, row["image_id"]] for attack in ("none", "fgsm"))
        assert clean is not None and attacked is not None
        (again,) = measure.distances(clean[None], attacked[None], Conditions(0, 1.0, 2))
        assert value == pytest.approx(float(again), rel=1e-5)
    record = open_run(str(tmp_path / "run")).record
    assert record.definitions.lpips == {"net": "squeeze", "weights_sha256": measure.backbone.weights_sha256}
    assert invoke("verify", tmp_path / "run").exit_code == 0


@needs_lpips
@pytest.mark.system
def test_another_network_is_refused_in_a_run_directory(weights: Path, tmp_path: Path) -> None:
    run(written(tmp_path, tiny()), tmp_path / "run")
    said = refused(written(tmp_path, tiny(lpips={"net": "squeeze", "weights": str(weights)})), tmp_path / "run")
    assert "lpips: " in said and "was made with null" in said


@needs_lpips
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("vggg", "lpips.net: unknown"),
        ({"net": "squeeze", "weights": "nowhere.pth"}, "nowhere.pth"),
        ({"layers": 3}, "lpips: unknown key 'layers'"),
    ],
)
def test_what_cannot_be_is_refused(asked: Any, message: str, tmp_path: Path) -> None:
    assert message in refused(written(tmp_path, tiny(lpips=asked)), tmp_path / "run")


@needs_lpips
def test_weights_of_another_network_are_refused_before_anything_is_written(weights: Path, tmp_path: Path) -> None:
    said = refused(written(tmp_path, tiny(lpips={"net": "alex", "weights": str(weights)})), tmp_path / "run")
    assert "does not hold the weights of torchvision/alexnet@IMAGENET1K_V1" in said
    assert not (tmp_path / "run").exists()


@needs_lpips
def test_a_canvas_that_is_too_small_is_said(measure: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    from lpips import LPIPS  # noqa: PLC0415 - not everyone has it

    network = LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    monkeypatch.setattr("transforms.models.lpips._loaded", lambda *_: network)
    small = Lpips("alex", measure.backbone)
    small.check(32, Conditions(0, 1.0, 2))
    with pytest.raises(InputError, match=r"^lpips: alex cannot look at canvases of 16 pixels: .* too small$"):
        small.check(16, Conditions(0, 1.0, 2))


def test_without_the_package_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.models.lpips.find_spec", lambda _: None)
    said = refused(written(tmp_path, tiny(lpips="alex")), tmp_path / "run")
    assert said.endswith("lpips: the package lpips is not installed; pip install lpips, or leave the key out")

"""RobustBench's models by name: networks, preprocessing and published figures, with weights made on the spot."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from pipeline.cli.terminal import print_clean_accuracy
from pipeline.run.clean_accuracy import CleanAccuracy
from transforms.errors import InputError
from transforms.models.pin import pin
from transforms.models.sources.registry import model_source, source_names
from transforms.models.sources.source import ModelSource

R18, WIDE = "robustbench/Salman2020Do_R18", "robustbench/Chen2024Data_WRN_50_2"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.resnet18(weights=None).eval()
    return network


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's own, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_a_file_in_the_cache_is_the_network_that_robustbench_builds(resnet: nn.Module, cache: Path) -> None:
    """Its models normalise by themselves, and files hold the network alone, as data parallelism left it."""
    state = {f"module.{key}": value for key, value in resnet.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, cache / "robustbench-Salman2020Do_R18.pt")
    pictures = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model_source(R18).load(torch.device("cpu"))(pictures)
        expected = resnet((pictures - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))
    assert torch.allclose(found, expected, atol=1e-4)
    pinned = pin(R18)
    assert (pinned.published, pinned.published_robust, pinned.weights) == (0.5292, 0.2532, None)


def test_a_checkpoint_of_the_robustness_library_is_the_same_network(resnet: nn.Module, tmp_path: Path) -> None:
    """MadryLab's and Salman's: the network twice, the normaliser beside it; of a local file nothing is published."""
    state = {
        f"module.{prefix}{key}": v for prefix in ("model.", "attacker.model.") for key, v in resnet.state_dict().items()
    }
    state |= {"module.normalizer.new_mean": MEAN.view(3, 1, 1), "module.normalizer.new_std": STD.view(3, 1, 1)}
    torch.save({"model": state}, tmp_path / "local.pt")
    source = model_source(R18, str(tmp_path / "local.pt"))
    assert (source.published, source.published_robust) == (None, None)
    pictures = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = source.load(torch.device("cpu"))(pictures)
        assert torch.allclose(found, resnet((pictures - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)), atol=1e-4)


def test_what_is_not_there_is_downloaded_once_and_said_where_to_put(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(url: str, path: str, hash_prefix: str | None) -> None:
        asked.append((url, path, hash_prefix))
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(InputError, match=r"robustbench-Salman2020Do_R18\.pt, and downloading it failed \(no network\)"):
        _ = model_source(R18).weights
    ((url, path, hash_prefix),) = asked
    assert "id=1OThCOQCOxY6lAgxZxgiK3YuZDD7PPfPx" in url and hash_prefix is None
    assert Path(path) == cache / "robustbench-Salman2020Do_R18.pt"


def test_each_is_shown_what_it_was_evaluated_on() -> None:
    sources = [model_source(name) for name in source_names() if name.startswith("robustbench/")]
    assert len(sources) == 13
    for each in sources:
        shown = each.preprocessing
        assert each.published and each.published_robust and 0.2 < each.published_robust < each.published < 0.8
        assert shown.input_size == 224
        whole = "Mo2022" in each.name  # resized as a whole
        assert (shown.resize, shown.field_of_view) == ((224, 1.0) if whole else (256, 0.875))
        bicubic = any(author in each.name for author in ("Liu2023", "RodriguezMunoz2024"))
        assert shown.interpolation == ("bicubic" if bicubic else "bilinear")
        assert shown.mean == ((0.0, 0.0, 0.0) if each.name == WIDE else (0.485, 0.456, 0.406))


def test_models_that_are_not_offered_are_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"'Salman2020Do_R51'; did you mean 'Salman2020Do_R50'\?"):
        model_source("robustbench/Salman2020Do_R51")


def test_accuracy_far_below_the_published_one_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Wilson's upper bound of 3 in 20 is 0.36."""
    source: ModelSource = model_source(R18)
    broken, usual = (CleanAccuracy("r18", right, 20, source.published) for right in (3, 10))
    assert broken.implausible and not usual.implausible
    print_clean_accuracy(broken)
    assert "r18 is right on 3 of 20 clean images, far below the published 52.9%" in capsys.readouterr().err

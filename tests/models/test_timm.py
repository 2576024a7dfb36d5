"""timm's models: built by name, with local weights, and shown what timm's own evaluation shows them."""

import io
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from transforms.data.decode import CanvasSpec, decode
from transforms.errors import InputError
from transforms.models.sources.registry import model_source, source_names
from transforms.models.views import center, look

pytestmark = pytest.mark.system

CPU = torch.device("cpu")
# A CNN, a ViT, a Swin (the smallest of which has 28 million weights), and one that is shown squashed pictures.
MODELS = [
    "mobilenetv3_small_050.lamb_in1k",
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "convnext_atto.d2_in1k",
]


def picture(side: int = 300) -> Image.Image:
    """Smooth, so that where exactly it is resized matters little, and 300 × 400 pixels."""
    y, x = np.mgrid[0:side, 0 : side * 4 // 3] / side
    waves = [0.5 + 0.4 * np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((1, 0.5), (0.5, 1.5), (1.2, -0.7))]
    return Image.fromarray((255 * np.stack(waves, axis=-1)).round().astype(np.uint8))


def random(model: str) -> nn.Module:
    """With random weights of a trained network's size, so that the answer depends on the picture."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(model).eval()
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    return network


def saved(network: nn.Module, folder: Path) -> str:
    save_file(network.state_dict(), folder / "weights.safetensors")
    return str(folder / "weights.safetensors")


@pytest.mark.parametrize("model", MODELS)
def test_what_timm_makes_of_a_picture(model: str, tmp_path: Path) -> None:
    """A canvas as timm resizes and crops it is shown as it is, so only normalisation and network are left to agree."""
    network = random(model)
    source = model_source(f"timm/{model}", saved(network, tmp_path))
    shown = source.preprocessing
    config = resolve_model_data_config(network)
    transform = create_transform(**{**config, "crop_mode": "center"}, is_training=False)
    file = io.BytesIO()
    picture().save(file, "PNG")
    canvas = decode(file.getvalue(), CanvasSpec(resize=shown.resize, crop=shown.input_size)).canvas
    with torch.inference_mode():
        expected = network(transform(picture())[None])
        found = look(source.load(CPU), center, torch.from_numpy(canvas)[None] / 255, shown.field_of_view)
        other = network(transform(picture().rotate(180))[None])
    spread = expected.std()
    if config["interpolation"] == "bicubic":  # a canvas is resized by the experiment, which knows one interpolation
        assert (found - expected).abs().max() < 0.1 * spread
    assert np.corrcoef(found, expected)[0, 1] > 0.999
    assert (other - expected).abs().max() > 0.3 * spread  # and another picture would have been told


@pytest.mark.parametrize("model", MODELS)
def test_networks_are_timms(model: str, tmp_path: Path) -> None:
    network = random(model)
    classifier = model_source(f"timm/{model}", saved(network, tmp_path)).load(CPU)
    size = classifier.preprocessing.input_size
    windows = torch.rand((2, 3, size, size), generator=torch.Generator().manual_seed(0), requires_grad=True)
    kind = classifier.preprocessing
    shown = (windows - torch.tensor(kind.mean).view(3, 1, 1)) / torch.tensor(kind.std).view(3, 1, 1)
    expected, found = network(shown), classifier(windows)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.detach().std()))
    (wanted,) = torch.autograd.grad(expected[:, 7].sum(), windows, retain_graph=True)
    (got,) = torch.autograd.grad(found[:, 7].sum(), windows)
    assert wanted.abs().max() > 0 and (got - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize(
    ("model", "size", "resize", "interpolation", "mean"),
    [  # from the models' cards on the Hugging Face hub: input size, crop_pct, interpolation, mean
        ("resnet50.a1_in1k", 224, 235, "bicubic", 0.485),  # 0.95
        ("resnet50.tv_in1k", 224, 256, "bilinear", 0.485),  # 0.875
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", 224, 248, "bicubic", 0.5),  # 0.9
        ("swin_tiny_patch4_window7_224.ms_in1k", 224, 248, "bicubic", 0.485),  # 0.9
        ("convnext_base.fb_in22k_ft_in1k_384", 384, 384, "bicubic", 0.485),  # 1.0, squash
        ("inception_v3.tf_in1k", 299, 341, "bicubic", 0.5),  # 0.875
    ],
)
def test_timms_preprocessing(model: str, size: int, resize: int, interpolation: str, mean: float) -> None:
    found = model_source(f"timm/{model}").preprocessing
    assert (found.input_size, found.resize, found.interpolation, found.mean[0]) == (size, resize, interpolation, mean)
    assert found.antialias and found.value_range == 1 and found.channels == "RGB"


def test_timms_random_interpolation_is_bilinear(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(timm.models.get_pretrained_cfg("resnet18.a1_in1k"), interpolation="random")
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda _: config)
    assert model_source("timm/resnet18.a1_in1k").preprocessing.interpolation == "bilinear"


def test_a_name_without_a_tag_is_what_timm_prefers() -> None:
    assert model_source("timm/resnet18").preprocessing == model_source("timm/resnet18.a1_in1k").preprocessing


def test_every_listed_model_resolves() -> None:
    listed = [name for name in source_names() if name.startswith("timm/")]
    assert len(listed) > 1000
    sources = [model_source(name) for name in listed]
    assert all(each.differentiable and each.published is None for each in sources)
    assert "timm/resnet18.a1_in1k" in listed and "timm/vit_tiny_patch16_224.augreg_in21k" not in listed


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet19", "unknown timm model 'resnet19'; did you mean 'resnet18'?"),
        ("hf-hub:timm/resnet18.a1_in1k", "unknown timm model 'hf-hub:timm/resnet18'"),
        ("resnet18.a1_in2k", "unknown tag of timm's resnet18 'a1_in2k'; did you mean 'a1_in1k'?"),
        (
            "vit_tiny_patch16_224.augreg_in21k",
            "timm/vit_tiny_patch16_224.augreg_in21k: these weights tell 21843 classes",
        ),
    ],
)
def test_models_that_are_none(model: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        model_source(f"timm/{model}")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_tags_of_the_right_classes_are_named() -> None:
    with pytest.raises(InputError, match=r"not 1000; tags of ImageNet's 1000: augreg_in21k_ft_in1k$"):
        model_source("timm/vit_tiny_patch16_224.augreg_in21k")


def test_another_networks_weights(tmp_path: Path) -> None:
    path = saved(random(MODELS[0]), tmp_path)
    for model in MODELS[1:3]:
        with pytest.raises(InputError, match=f"{path} does not hold the weights of timm/{model}") as caught:
            model_source(f"timm/{model}", path).load(CPU)
        assert "\n" not in str(caught.value)


def test_weights_that_lack_one(tmp_path: Path) -> None:
    state: dict[str, Tensor] = random(MODELS[0]).state_dict()
    state.pop("classifier.bias")
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(InputError, match=r"Missing key\(s\) in state_dict: \"classifier.bias\""):
        model_source(f"timm/{MODELS[0]}", str(tmp_path / "less.safetensors")).load(CPU)


# The download --------------------------------------------------------------------------------------------------------


def test_what_offline_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def offline(*_: str, **keys: Any) -> str:
        asked.append(keys)
        from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

        raise LocalEntryNotFoundError("no connection,\nnone at all")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    source = model_source("timm/resnet18.a1_in1k")
    assert asked == []  # a name is resolved without its weights
    with pytest.raises(InputError) as caught:
        source.digest()
    assert asked == [{"local_files_only": True}, {}]
    url = "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    message = str(caught.value)
    assert "timm/resnet18.a1_in1k" in message and url in message and "'weights:'" in message
    assert "no connection, none at all" in message and "\n" not in message


def test_what_the_hub_has_cached_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Laid out as huggingface_hub keeps it."""
    path = Path(saved(random(MODELS[0]), tmp_path))
    repository = tmp_path / "cache" / f"models--timm--{MODELS[0]}"
    (repository / "snapshots" / "0123").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    (repository / "snapshots" / "0123" / "model.safetensors").write_bytes(path.read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    found, expected = (model_source(f"timm/{MODELS[0]}", weights) for weights in (None, str(path)))
    assert found.digest() == expected.digest()
    assert found.load(CPU)(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_weights_that_are_not_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))

    def offline(*_args: Any, **_keys: Any) -> None:
        raise urllib.error.URLError("offline")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    file = "gcvit_tiny_224_nvidia-ac783954.pth"
    with pytest.raises(
        InputError, match=rf"no {tmp_path}/checkpoints/{file}, .*offline.*; put https://github.com/.*{file} "
    ):
        _ = model_source("timm/gcvit_tiny.in1k").weights


def test_weights_that_nobody_publishes() -> None:
    unpublished = next(each for each in timm.list_models() if not timm.is_model_pretrained(each))
    with pytest.raises(InputError, match=f"timm/{unpublished}: timm publishes no weights .* 'weights:'"):
        _ = model_source(f"timm/{unpublished}").weights


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util  # noqa: PLC0415 - beside its only use

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "timm" else find(name))
    with pytest.raises(InputError, match=r"^timm/resnet18 needs: pip install timm$"):
        model_source("timm/resnet18")
    assert not any(name.startswith("timm/") for name in source_names())

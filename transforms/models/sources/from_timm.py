"""timm's classifiers of ImageNet's 1000 classes, `NAME` or `NAME.TAG`, with the data configuration of their weights.

timm is a library of Ross Wightman's, github.com/huggingface/pytorch-image-models. A name without a tag is that of the
weights that timm prefers.
"""

import importlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from transforms.errors import InputError, printable, unknown
from transforms.models.classifier import Preprocessing
from transforms.models.sources.source import CLASSES, ModelSource, needed
from transforms.models.sources.weights import downloaded, state_dict, unwrapped

_FILE = "model.safetensors"
"""As timm's repositories on the Hugging Face hub call it."""


def names() -> list[str]:
    if importlib.util.find_spec("timm") is None:
        return []
    timm = importlib.import_module("timm")
    return [name for name in timm.list_models(pretrained=True) if _config(name).num_classes == CLASSES]


def source(name: str, model: str) -> ModelSource:
    needed(name, "timm")
    timm = importlib.import_module("timm")
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        raise unknown("timm model", architecture, timm.list_models())
    tags = [each.partition(".")[2] for each in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise unknown(f"tag of timm's {architecture}", tag, tags)
    config = _config(model)
    if config.num_classes != CLASSES:
        fitting = [each for each in tags if _config(f"{architecture}.{each}").num_classes == CLASSES]
        others = f"; tags of ImageNet's {CLASSES}: {', '.join(fitting)}" if fitting else ""
        raise InputError(f"{name}: these weights tell {config.num_classes} classes apart, not {CLASSES}{others}")
    return ModelSource(name, _preprocessing(config), lambda: _fetch(name, config), reader(model))


def _config(model: str) -> Any:
    return importlib.import_module("timm.models").get_pretrained_cfg(model)


def _preprocessing(config: Any) -> Preprocessing:
    """As timm's evaluation (`timm.data.transforms_imagenet_eval`) at the size that the weights were trained for.

    A canvas is square, so the crop modes "squash" and "border" come to the same as "center".
    """
    data = importlib.import_module("timm.data").resolve_data_config(pretrained_cfg=config.to_dict())
    _, side, _ = data["input_size"]
    return Preprocessing(
        input_size=side,
        resize=math.floor(side / data["crop_pct"]),
        interpolation="bilinear" if data["interpolation"] == "random" else data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


def _fetch(name: str, config: Any) -> Path:
    if config.hf_hub_id:
        return _from_hub(name, config.hf_hub_id, config.hf_hub_filename or _FILE)
    if config.url:
        return downloaded(name, config.url)
    raise InputError(f"{name}: timm publishes no weights of this model; give a local file as 'weights:'")


def _from_hub(name: str, repository: str, file: str) -> Path:
    """What the hub's own cache holds is taken without asking the network, which takes long to fail offline."""
    hub = importlib.import_module("huggingface_hub")
    errors = importlib.import_module("huggingface_hub.errors")
    hub.logging.set_verbosity_error()  # a line for each attempt; the last one is ours
    try:
        try:
            return Path(hub.hf_hub_download(repository, file, local_files_only=True))
        except errors.LocalEntryNotFoundError:
            return Path(hub.hf_hub_download(repository, file))
    except (OSError, ValueError) as error:  # no network; no such file; a cache that cannot be written
        raise InputError(
            f"{name}: not in the cache of huggingface_hub, and downloading it failed ({printable(error, 300)}); "
            f"get {hub.hf_hub_url(repository, file)} and give it as 'weights:'"
        ) from None


def reader(model: str) -> Callable[[Path, torch.device], nn.Module]:
    """A `ModelSource.read` for a network of timm, whose file may be older than timm's present names of tensors."""

    def read(path: Path, _device: torch.device) -> nn.Module:
        # Through timm's own door, which knows how each architecture's published files differ from its module.
        timm = importlib.import_module("timm")
        with torch.device("meta"):
            expected = timm.create_model(model).state_dict().keys()
        found = unwrapped(state_dict(path), expected)
        overlay = {"state_dict": found.state, "custom_load": False}
        network: nn.Module = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay)
        cast(Any, network).normaliser = found.normaliser  # for ModelSource.load, which knows the preprocessing
        return network

    return read

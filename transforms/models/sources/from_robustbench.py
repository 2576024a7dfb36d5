"""RobustBench's ImageNet models against L∞ attacks, by their names there, on networks of torchvision and timm.

Names, architectures, preprocessing, files and figures are those of the package robustbench 1.1.1
(github.com/RobustBench/robustbench: `model_zoo/imagenet.py`, `data.py`, README), which is not needed: it asks for an
old timm, and unpickles. Left out are its models on networks of its own (XCiT, ConvStem, MixedNUTS, MeanSparse, MIMIR,
RobustArch), and Wong2020Fast, which is evaluated on pictures that are cut without having been resized.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from transforms.errors import unknown
from transforms.models.classifier import Preprocessing
from transforms.models.sources.source import ModelSource, needed
from transforms.models.sources.weights import downloaded, state_dict_into

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DOWNLOAD = "https://drive.usercontent.google.com/download?id={file}&confirm=t"


@dataclass(frozen=True)
class _Model:
    """What RobustBench says of a model.

    Attributes:
        network: `torchvision/NAME` or `timm/NAME`.
        shown: resize and interpolation, before a square of 224 pixels is cut.
        clean, robust: accuracy in [0, 1] on 5,000 validation images: clean, and under AutoAttack at 4/255.
        file: id of its file at Google Drive.
        normalised: whether the network is shown pictures less ImageNet's mean, divided by its deviation.
    """

    network: str
    shown: tuple[int, str]
    clean: float
    robust: float
    file: str
    normalised: bool = True


_BILINEAR, _BICUBIC, _WHOLE = (256, "bilinear"), (256, "bicubic"), (224, "bilinear")
_SWIN_B, _SWIN_L = "timm/swin_base_patch4_window7_224", "timm/swin_large_patch4_window7_224"
_MODELS = {
    "Engstrom2019Robustness": _Model(
        "torchvision/resnet50", _BILINEAR, 0.6256, 0.2922, "1T2Fvi1eCJTeAOEzrH_4TAIwO8HTOYVyn"
    ),
    "Salman2020Do_R18": _Model("torchvision/resnet18", _BILINEAR, 0.5292, 0.2532, "1OThCOQCOxY6lAgxZxgiK3YuZDD7PPfPx"),
    "Salman2020Do_R50": _Model("torchvision/resnet50", _BILINEAR, 0.6402, 0.3496, "1TmT5oGa1UvVjM3d-XeSj_XmKqBNRUg8r"),
    "Salman2020Do_50_2": _Model(
        "torchvision/wide_resnet50_2", _BILINEAR, 0.6846, 0.3814, "1OT7xaQYljrTr3vGbM37xK9SPoPJvbSKB"
    ),
    "Chen2024Data_WRN_50_2": _Model(
        "torchvision/wide_resnet50_2", _BILINEAR, 0.6876, 0.4060, "1-PBlZVILAKFQ7mF8srKjdkTKJZAr61Uf", normalised=False
    ),
    "Liu2023Comprehensive_ConvNeXt-B": _Model(
        "timm/convnext_base", _BICUBIC, 0.7602, 0.5582, "10-nSm-qUftvfKXHeOAakBQl8rxm-jCbk"
    ),
    "Liu2023Comprehensive_ConvNeXt-L": _Model(
        "timm/convnext_large", _BICUBIC, 0.7802, 0.5848, "1dIPLNfdQtAnqZrKPyuy3_zDI-FVgJ2FH"
    ),
    "Liu2023Comprehensive_Swin-B": _Model(_SWIN_B, _BICUBIC, 0.7616, 0.5616, "1-4mtxQCkThJUVdS3wvQ6NnmMZuySqR3c"),
    "Liu2023Comprehensive_Swin-L": _Model(_SWIN_L, _BICUBIC, 0.7892, 0.5956, "1-57sQfcrsDsslfDR18nRD7FnpQmsSBk7"),
    "Mo2022When_Swin-B": _Model(_SWIN_B, _WHOLE, 0.7466, 0.3830, "1-SXi4Z2X6Zo_j8EO4slJcBMXNej8fKUd"),
    "Mo2022When_ViT-B": _Model(
        "timm/vit_base_patch16_224", _WHOLE, 0.6838, 0.3440, "1-dUFdvDBflqMsMLjZv3wlPJTm-Jm7net"
    ),
    "RodriguezMunoz2024Characterizing_Swin-B": _Model(
        _SWIN_B, _BICUBIC, 0.7776, 0.5156, "1-BSUjoFXx3PP-TfeE5fjbofO2lLyUf56"
    ),
    "RodriguezMunoz2024Characterizing_Swin-L": _Model(
        _SWIN_L, _BICUBIC, 0.7936, 0.5382, "1-Dc9WhPU2wv4OMskLo1U57n5O8VbpNXv"
    ),
}


def names() -> Iterable[str]:
    there = importlib.util.find_spec("timm") is not None
    return [name for name, model in _MODELS.items() if there or not model.network.startswith("timm/")]


def source(name: str, model: str) -> ModelSource:
    if model not in _MODELS:
        raise unknown("model of RobustBench on a network of torchvision or timm:", model, _MODELS)
    known = _MODELS[model]
    library, _, architecture = known.network.partition("/")
    if library == "timm":
        needed(name, "timm")
    resize, interpolation = known.shown
    mean, std = (_MEAN, _STD) if known.normalised else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return ModelSource(
        name,
        Preprocessing(224, resize, interpolation, mean, std),
        fetch=lambda: downloaded(name, _DOWNLOAD.format(file=known.file), f"robustbench-{model}.pt"),
        read=_reader(library, architecture),
        published=known.clean,
        published_robust=known.robust,
    )


def _reader(library: str, architecture: str) -> Callable[[Path, torch.device], nn.Module]:
    if library == "timm":
        # timm's own door, since it has renamed tensors since these files were written.
        read: Callable[[Path, torch.device], nn.Module] = importlib.import_module(
            "transforms.models.sources.from_timm"
        ).reader(architecture)
        return read
    torchvision = importlib.import_module("torchvision")
    return state_dict_into(partial(torchvision.models.get_model, architecture, weights=None))

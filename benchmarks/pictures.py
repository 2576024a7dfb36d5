"""Pictures and networks that benchmarks have in common."""

import copy

import timm
import torch
import torchvision
from torch import Tensor, nn

from pipeline.config.images import ImagesConfig
from pipeline.images.manifest import list_images
from transforms.data.chunks import ImageRef
from transforms.data.decode import CanvasSpec
from transforms.data.pixels import WHITE, CanvasBatch
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.pin import pin
from transforms.steps.held_models import HeldModels
from transforms.storage.images import read_batch

CANVAS = CanvasSpec(256, 224)
_SHOWN = Preprocessing(224, 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def listed(folder: str | None) -> list[ImageRef]:
    """The images of a folder with `labels.csv`; foolbox's 20 samples where none is given."""
    section = {"samples": "foolbox"} if folder is None else {"folder": folder, "labels": f"{folder}/labels.csv"}
    return list_images(ImagesConfig.model_validate(section), seed=0).refs


def canvases(refs: list[ImageRef], count: int) -> CanvasBatch:
    """The first images, again from the beginning where there are fewer."""
    return read_batch([refs[number % len(refs)] for number in range(count)], CANVAS)


def lite0() -> Classifier:
    """EfficientNet-Lite0 with its weights, as torch loads it."""
    return HeldModels({"lite0": pin("packaged/efficientnet-lite0", gradients="torch")}, "cpu")["lite0"]


def untrained(name: str) -> Classifier:
    """A network of torchvision or timm with random weights, for timing only."""
    torch.manual_seed(0)
    if hasattr(torchvision.models, name):
        network = getattr(torchvision.models, name)(weights=None)
    else:
        network = timm.create_model(name, pretrained=False)
    return Classifier(network, _SHOWN)


class AsUsersDo(nn.Module):
    """A classifier as one hands it to other libraries: parameters require gradients, pictures are floats in [0, 1]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier)
        self.eval().requires_grad_(True)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.classifier(pictures)
        return logits


def floats(batch: CanvasBatch) -> Tensor:
    """Float32 (B, 3, S, S) in [0, 1]."""
    return torch.from_numpy(batch.pixels).float() / WHITE

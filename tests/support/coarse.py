"""Two models that cost next to nothing, for tests of everything but networks.

Each is a linear classifier of pictures of 32 pixels. It is right about the 20 samples. An attack within four grey
levels turns most of them, JPEG brings most back, and what turns one model leaves the other. The
folder `installed` offers both to every process of the tests, as a user's own package would.
"""

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.runs import label_of, sample_files
from transforms.data.decode import CanvasSpec, decode
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.sources.source import CLASSES, ModelSource
from transforms.models.views import center, look

INSTALLED = Path(__file__).parent / "installed"
SIDE = 32
_HIDDEN = 64
_CANVAS = CanvasSpec(resize=256, crop=224)
_SHOWN = Preprocessing(SIDE, 40, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), antialias=False)
_WEIGHTS = (0.05, 0.25)
"""Their least and their greatest deviation: the larger, the more easily an image of the class is turned."""
_LOGIT = 10.0
"""Of a sample's own class, where those of the others are 0."""


class Linear(nn.Module):
    """Two layers without anything between: plain sums, which unlike matrix kernels round the same in any batch.

    What the first answers is the answer of the module `hidden`, too.
    """

    def __init__(self, first: Tensor, last: Tensor) -> None:
        super().__init__()
        self.hidden = nn.Identity()
        self.first = nn.Parameter(first.clone())
        self.last = nn.Parameter(last.clone())

    def forward(self, windows: Tensor) -> Tensor:
        hidden = self.hidden((windows.flatten(1)[:, None] * self.first).sum(dim=2))
        return (hidden[:, None] * self.last).sum(dim=2)


def coarse0() -> ModelSource:
    return _source("coarse0")


def coarse1() -> ModelSource:
    return _source("coarse1")


def _source(name: str) -> ModelSource:
    """The file of its weights holds the seed of which they are drawn."""
    return ModelSource(
        name,
        _SHOWN,
        fetch=lambda: INSTALLED / f"{name}.txt",
        read=lambda file, device: Linear(*_weights(int(file.read_text()))),
    )


@cache
def _weights(seed: int) -> tuple[Tensor, Tensor]:
    """Random ones, of which the last are the nearest that give the samples their logits."""
    samples, logits = _samples()
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(_HIDDEN, samples.shape[1], generator=generator).double() / _HIDDEN**0.5
    deviations = torch.empty(CLASSES, 1).uniform_(*_WEIGHTS, generator=generator)
    last = (torch.randn(CLASSES, _HIDDEN, generator=generator) * deviations).double()
    hidden = samples @ first.T
    last += (torch.linalg.pinv(hidden) @ (logits - hidden @ last.T)).T
    return first.float(), last.float()


@cache
def _samples() -> tuple[Tensor, Tensor]:
    """What a network is shown of the samples, (20, 3072), and the logits that it should have of them."""
    decoded = [decode(file.read_bytes(), _CANVAS).canvas for file in sample_files()]
    canvases = torch.stack([*map(torch.from_numpy, decoded)]).float() / 255
    shown = look(Classifier(nn.Flatten(), _SHOWN), center, canvases, _CANVAS.field_of_view)
    labels = torch.tensor([label_of(file) for file in sample_files()])
    return shown.double(), F.one_hot(labels, CLASSES).double() * _LOGIT

"""A small network of convolutions that is trained in seconds, plainly or adversarially, to know the 20 samples.

The folder `installed` offers its architecture to every process of the tests; weights are whoever's who trains them.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.runs import label_of, sample_files
from transforms.data.decode import CanvasSpec, decode
from transforms.errors import InputError
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.sources.source import CLASSES, ModelSource
from transforms.models.sources.weights import state_dict_into
from transforms.models.views import center, look

_HALF = (0.5, 0.5, 0.5)
_CANVAS = CanvasSpec(resize=256, crop=224)
_SHOWN = Preprocessing(28, 32, "bilinear", _HALF, _HALF)


def _network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4 * 4, CLASSES)),
    )


def convnet() -> ModelSource:
    def fetch() -> Path:
        raise InputError("convnet has no weights of its own; give weights: PATH")

    return ModelSource("convnet", _SHOWN, fetch=fetch, read=state_dict_into(_network))


def train(eps: float, passes: int) -> nn.Module:
    """Trains on all samples at once, so many times; with eps > 0, on what PGD makes of them within eps of [0, 1] pixels
    (Madry et al. 2018, arXiv:1706.06083)."""
    torch.manual_seed(0)
    network, shown = _network(), _samples()
    labels = torch.tensor([label_of(file) for file in sample_files()])
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(passes):
        loss = F.cross_entropy(network(_worst(network, shown, labels, eps / _HALF[0])), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def _samples() -> Tensor:
    """What a network is shown of them, (20, 3, 28, 28) in [-1, 1]."""
    decoded = [decode(file.read_bytes(), _CANVAS).canvas for file in sample_files()]
    canvases = torch.stack([*map(torch.from_numpy, decoded)]).float() / 255
    return look(Classifier(nn.Identity(), _SHOWN), center, canvases, _CANVAS.field_of_view)


def _worst(network: nn.Module, clean: Tensor, labels: Tensor, eps: float, steps: int = 5) -> Tensor:
    points = (clean + eps * (2 * torch.rand_like(clean) - 1)).clamp(-1, 1)
    for _ in range(steps if eps else 0):
        points.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(network(points), labels), points)
        moved = points.detach() + 2.5 * eps / steps * slope.sign()
        points = (clean + (moved - clean).clamp(-eps, eps)).clamp(-1, 1)
    return points


def save_as_robustness_does(network: nn.Module, path: Path) -> Path:
    """As MadryLab's library and Salman et al. save one: the network twice, the normaliser beside it, data parallel
    (github.com/MadryLab/robustness: `train.py`, `attacker.py`)."""
    names = ("module.model.", "module.attacker.model.")
    state = {f"{name}{key}": value for name in names for key, value in network.state_dict().items()}
    for name in ("module.normalizer.", "module.attacker.normalize."):
        state |= {
            f"{name}new_mean": torch.tensor(_HALF)[:, None, None],
            f"{name}new_std": torch.tensor(_HALF)[:, None, None],
        }
    torch.save({"model": state, "epoch": 1, "schedule": None}, path)
    return path

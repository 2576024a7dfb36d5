"""A classifier that knows nothing, for measuring everything but networks."""

from pathlib import Path

import torch
from torch import Tensor, nn

from transforms.models.classifier import Preprocessing
from transforms.models.sources.source import CLASSES, ModelSource

SIDE = 32
"""Of the pictures that it is shown, pixels."""
_CELLS = 4


class _Stub(nn.Module):
    """One linear layer over a coarse picture, with weights drawn by a fixed seed."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor
        weights = torch.randn(CLASSES, 3 * _CELLS * _CELLS, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weights", weights)

    def forward(self, windows: Tensor) -> Tensor:
        coarse = nn.functional.avg_pool2d(windows, SIDE // _CELLS)
        return coarse.flatten(1) @ self.weights.T


def stub() -> ModelSource:
    """What the entry point in the group `megalith.models` names; the weights are made by this file."""
    shown = Preprocessing(SIDE, SIDE, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return ModelSource("stub", shown, fetch=lambda: Path(__file__), read=lambda file, device: _Stub())

"""Probes: pictures that every model can be tried on."""

import torch
import torch.nn.functional as F
from torch import Tensor


def probes(count: int, side: int) -> Tensor:
    """Pictures of soft random shapes, always the same: float (count, 3, side, side) in [0, 1], on the CPU."""
    shapes = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(shapes, size=(side, side), mode="bicubic").clamp(0, 1)

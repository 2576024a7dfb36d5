"""Broadcasting of one number or flag per image over whole canvases, or whatever else belongs to one."""

import torch
from torch import Tensor


def per_image(values: Tensor, dimensions: int = 4) -> Tensor:
    """(B,) as (B, 1, 1, 1), to go with canvases, or with tensors of so many dimensions."""
    return values.view(-1, *[1] * (dimensions - 1))


def where(flags: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    """Chooses whole canvases, (B, 3, S, S), by flags, bool (B,)."""
    return torch.where(per_image(flags), then, otherwise)

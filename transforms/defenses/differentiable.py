"""Defences as an attack sees them: what a model is shown is exactly the defended 8-bit canvas, and gradients flow back
through a smooth stand-in."""

from collections.abc import Callable

import torch
from torch import Tensor

from transforms.defenses.canvas import smooth_blur, smooth_lowpass
from transforms.defenses.grid import Defense

_WHITE = 255

SMOOTH: dict[str, Callable[..., Tensor]] = {"lowpass": smooth_lowpass, "blur": smooth_blur}
"""The defences that are differentiable but for their rounding to 8 bits. Through the others gradients pass as if they
were the identity (BPDA, Athalye et al. 2018, arXiv:1802.00420, §4.1)."""


def differentiable(defense: Defense) -> Callable[[Tensor], Tensor]:
    """A defence on float canvases (B, 3, S, S) in [0, 1]: rounded to 8 bits and defended, with a useful gradient."""
    smooth = SMOOTH.get(defense.function)

    def defended(canvases: Tensor) -> Tensor:
        # Exactly what is evaluated, whatever the precision of gradients.
        with torch.no_grad(), torch.autocast(canvases.device.type, enabled=False):
            exact = defense((canvases.clamp(0, 1) * _WHITE).round().to(torch.uint8)).to(canvases) / _WHITE
        stand_in = canvases if smooth is None else smooth(canvases, **dict(defense.parameters))
        return exact + (stand_in - stand_in.detach())

    return defended

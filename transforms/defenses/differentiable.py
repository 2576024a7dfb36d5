"""Defences as an attack sees them: what a model is shown is exactly the defended 8-bit canvas, and gradients flow back
through a smooth stand-in."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from transforms.data.pixels import WHITE
from transforms.defenses.biology import smooth_fovea, smooth_fovea_saccades, smooth_retina, smooth_v1
from transforms.defenses.defense import Defense, Filter
from transforms.defenses.differentiable_jpeg import smooth_jpeg
from transforms.defenses.eight_bit import to_8bit
from transforms.defenses.filters import smooth_blur
from transforms.defenses.fourier import (
    smooth_lowpass,
    smooth_lowpass_butterworth,
    smooth_lowpass_dct,
    smooth_lowpass_gaussian,
)
from transforms.defenses.randomized import smooth_random_crop, smooth_resize_pad
from transforms.defenses.registry import defense_function, purifier_function
from transforms.randomness import Draws


def of_levels(smooth: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A stand-in that takes levels (0–255), as one that takes [0, 1]: not the same where it is not linear."""

    def scaled(canvases: Tensor, *draws: Draws, **values: float) -> Tensor:
        return smooth(canvases * WHITE, *draws, **values) / WHITE

    return scaled


SMOOTH: dict[str, Callable[..., Tensor]] = {
    "lowpass": smooth_lowpass,
    "lowpass-gaussian": smooth_lowpass_gaussian,
    "lowpass-butterworth": smooth_lowpass_butterworth,
    "lowpass-dct": smooth_lowpass_dct,
    "blur": smooth_blur,
    "resize-pad": smooth_resize_pad,
    "random-crop": smooth_random_crop,
    "fovea": smooth_fovea,
    "fovea-saccades": smooth_fovea_saccades,
    "retina": of_levels(smooth_retina),
    "v1": of_levels(smooth_v1),
}
"""The defences that are differentiable but for their rounding to 8 bits, by their stand-ins: the same arguments, on
float canvases in [0, 1]. Through the others gradients pass as if they were the identity (BPDA, Athalye et al. 2018,
arXiv:1802.00420, §4.1); of `noise` and `smoothing` that is the true gradient, but for rounding and clipping."""

APPROXIMATE: dict[str, Callable[..., Tensor]] = {"jpeg": of_levels(smooth_jpeg)}
"""Of those others, the ones that have a smooth approximation, likewise."""

Backward = Literal["identity", "smooth"]
"""What stands in for a defence that has no gradient of its own: the identity, or its smooth approximation."""


def has_choice(defense: Defense) -> bool:
    """Whether `Backward` makes a difference to a defence."""
    return any(each.function in APPROXIMATE for each in defense.filters)


def differentiable(
    defense: Defense, draws: Draws | None = None, backward: Backward = "identity"
) -> Callable[[Tensor], Tensor]:
    """A defence on float canvases (B, 3, S, S) in [0, 1]: rounded to 8 bits and defended, with a useful gradient.

    Args:
        draws: as a call of the defence takes them; the same ones show the same canvas every time.
        backward: what stands in for what has no gradient of its own.
    """

    def defended(canvases: Tensor) -> Tensor:
        for each, own in defense.steps(draws):
            canvases = _filtered(each, canvases, own, backward)
        return canvases

    return defended


def _filtered(each: Filter, canvases: Tensor, draws: Draws | None, backward: Backward) -> Tensor:
    if (purifier := purifier_function(each.function)) is not None:
        return _purified(each, purifier, canvases, draws)
    # Exactly what is evaluated, whatever the precision of gradients.
    with torch.no_grad(), torch.autocast(canvases.device.type, enabled=False):
        rounded = (canvases.clamp(0, 1) * WHITE).round().to(torch.uint8)
        exact = each.apply(defense_function(each.function), rounded, draws).to(canvases) / WHITE
    smooth = SMOOTH.get(each.function) or (APPROXIMATE.get(each.function) if backward == "smooth" else None)
    with torch.autocast(canvases.device.type, enabled=False):  # the mean of a picture in levels overflows fp16
        stand_in = canvases if smooth is None else each.apply(smooth, canvases, draws)
    return exact + (stand_in - stand_in.detach())


def _purified(each: Filter, purifier: Callable[..., Tensor], canvases: Tensor, draws: Draws | None) -> Tensor:
    """Asks a purifier once, since it may take seconds: what it makes of the rounded canvas, and the gradient there."""
    nearest = ((canvases.detach().clamp(0, 1) * WHITE).round() / WHITE).float()
    with torch.autocast(canvases.device.type, enabled=False):
        clean = each.apply(purifier, nearest + (canvases - canvases.detach()).float(), draws)
    exact = to_8bit(clean.detach() * WHITE).to(canvases) / WHITE
    return exact + (clean - clean.detach()).to(canvases)

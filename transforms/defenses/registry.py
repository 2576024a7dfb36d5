"""Which defences there are: functions by the names that experiments and tables use."""

from collections.abc import Callable
from functools import lru_cache
from inspect import Parameter, signature
from typing import get_type_hints

from torch import Tensor

from transforms.defenses.biology import fovea, fovea_saccades, retina, v1
from transforms.defenses.codecs import bit_depth, jpeg, webp
from transforms.defenses.filters import bilateral, blur, median, nlm, tvm
from transforms.defenses.fourier import lowpass, lowpass_butterworth, lowpass_dct, lowpass_gaussian
from transforms.defenses.plugins import plugin_defense, plugin_names, plugin_purifier
from transforms.defenses.randomized import noise, pixel_deflection, random_crop, resize_pad
from transforms.defenses.smoothing import SMOOTHING, smoothing
from transforms.errors import unknown

DEFENSES: dict[str, Callable[..., Tensor]] = {
    "lowpass": lowpass,
    "lowpass-gaussian": lowpass_gaussian,
    "lowpass-butterworth": lowpass_butterworth,
    "lowpass-dct": lowpass_dct,
    "blur": blur,
    "median": median,
    "bilateral": bilateral,
    "nlm": nlm,
    "tvm": tvm,
    "jpeg": jpeg,
    "webp": webp,
    "bit-depth": bit_depth,
    "noise": noise,
    "resize-pad": resize_pad,
    "random-crop": random_crop,
    "pixel-deflection": pixel_deflection,
    SMOOTHING: smoothing,
    "fovea": fovea,
    "fovea-saccades": fovea_saccades,
    "retina": retina,
    "v1": v1,
}
"""The house's own. Each maps uint8 canvases (B, 3, S, S) to the same shape: (canvases, *, parameters), or where it is
random (canvases, draws, *, parameters). Its smooth stand-in, if it has one, is named in `differentiable.SMOOTH`."""


def defense_names() -> list[str]:
    """The house's own, then those of installed packages."""
    return [*DEFENSES, *(name for name in plugin_names() if name not in DEFENSES)]


def defense_function(name: str) -> Callable[..., Tensor]:
    """Raises InputError for an unknown defence, and for one of another package that is not what it should be."""
    if name in DEFENSES:
        return DEFENSES[name]
    if name not in plugin_names():
        raise unknown("defense", name, defense_names())
    return plugin_defense(name)


def purifier_function(name: str) -> Callable[..., Tensor] | None:
    """A purifier's function on float canvases in [0, 1]; None for a defence of another kind."""
    return None if name in DEFENSES else plugin_purifier(name)


def is_random(name: str) -> bool:
    """Whether a defence takes draws; raises InputError as `defense_function` does."""
    return _takes_draws(defense_function(name))


@lru_cache
def _takes_draws(function: Callable[..., Tensor]) -> bool:
    positional = Parameter.POSITIONAL_OR_KEYWORD
    return sum(each.kind is positional for each in signature(function).parameters.values()) > 1


def parameter_types(name: str) -> dict[str, type[int | float]]:
    """The parameters that are written with a defence, and their types: the keyword parameters of its function, and for
    a random one `repeats`, how often it is drawn, unless it says so itself; raises InputError as `defense_function`."""
    function = defense_function(name)
    hints = get_type_hints(function)
    types = {
        each.name: hints[each.name]
        for each in signature(function).parameters.values()
        if each.kind is Parameter.KEYWORD_ONLY
    }
    return {**types, "repeats": int} if is_random(name) and name != SMOOTHING else types

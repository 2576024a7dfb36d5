"""Modifiers of residual blocks."""

from collections.abc import Callable

from torch import Tensor

from transforms.attacks.modifiers.backward import scaled
from transforms.attacks.modifiers.modifier import Modifier, Place
from transforms.ranges import within

_PICTURES = 4


def sgm(*, gamma: float = 0.2) -> Modifier:
    """Skip gradients: what flows back through the layers of residual blocks times gamma, past them as it is."""
    within("[0, 1)", gamma=gamma)
    return Modifier("Wu et al. 2020, arXiv:2002.05990", {"residual": lambda residual, _: scaled(residual, gamma)})


def ghost(*, skip_range: float = 0.2) -> Modifier:
    """Ghost networks: each channel of a skip connection times a random number, 1 ± `skip_range` at most."""
    within("(0, 1]", skip_range=skip_range)

    def eroded(skip: Tensor, place: Place) -> Tensor:
        if place.draws is None:
            raise TypeError("ghost is random: it needs draws")
        channels = skip.shape[1 if skip.dim() == _PICTURES else -1]
        shape = (channels, 1, 1) if skip.dim() == _PICTURES else (1, channels)
        drawn = place.draws.uniform(shape, "factor").to(skip.device)
        return skip * (1 + skip_range * (2 * drawn - 1))

    return Modifier("Li et al. 2020, arXiv:1812.03413", {"skip": eroded}, random=True, exact=False)


MODIFIERS: dict[str, Callable[..., Modifier]] = {"sgm": sgm, "ghost": ghost}

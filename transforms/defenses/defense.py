"""Defences: canvas to canvas before the model; `jpeg:quality=75+blur:sigma=1.0` is a composition of two."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from transforms.data.pixels import WHITE
from transforms.defenses.registry import DEFENSES, defense_function, is_random
from transforms.defenses.smoothing import SMOOTHING, Smoothing
from transforms.errors import InputError
from transforms.models.probes import probes
from transforms.randomness import Draws

Value = int | float


@dataclass(frozen=True)
class Filter:
    """One defence function with its parameters, among them `repeats` where it is random."""

    function: str
    parameters: tuple[tuple[str, Value], ...] = ()

    @property
    def name(self) -> str:
        """`jpeg:quality=75`."""
        written = ",".join(f"{key}={value!r}" for key, value in self.parameters)
        return f"{self.function}:{written}" if written else self.function

    @property
    def random(self) -> bool:
        """Whether it needs draws."""
        return is_random(self.function)

    @property
    def repeats(self) -> int:
        """How often it is to be drawn: 1 where nothing is."""
        values = dict(self.parameters)
        return int(values["samples" if self.function == SMOOTHING else "repeats"]) if self.random else 1

    def apply(self, function: Callable[..., Tensor], canvases: Tensor, draws: Draws | None) -> Tensor:
        """Calls the filter's function, or what stands in for it, as defence functions are called.

        Raises:
            InputError: a parameter is out of its range.
            TypeError: the filter is random, and there are no draws.
        """
        values = dict(self.parameters)
        if not self.random:
            return function(canvases, **values)
        if draws is None:
            raise TypeError(f"{self.name} is random: it needs draws")
        values.pop("repeats", None)
        return function(canvases, draws, **values)


@dataclass(frozen=True)
class Defense:
    """Filters, applied from left to right; called with canvases, uint8 (B, 3, S, S), it returns the same shape.

    Raises:
        InputError: random filters that are to be drawn a different number of times, or smoothing behind another filter.
    """

    filters: tuple[Filter, ...] = ()

    def __post_init__(self) -> None:
        _ = self.smoothing  # has its own bounds
        repeats = sorted({each.repeats for each in self.filters if each.random})
        if len(repeats) > 1:
            raise InputError(f"{self.name}: its parts are drawn together, not {' and '.join(map(str, repeats))} times")
        if repeats and repeats[0] < 1:
            raise InputError(f"{self.name}: repeats must be at least 1, not {repeats[0]}")
        if any(each.function == SMOOTHING for each in self.filters[1:]):
            raise InputError(f"{self.name}: smoothing comes first; what follows belongs to the classifier that votes")

    @property
    def name(self) -> str:
        """As it stands in tables: `jpeg:quality=75+blur:sigma=1.0`; without filters `none`."""
        return "+".join(each.name for each in self.filters) or "none"

    @property
    def random(self) -> bool:
        """Whether it needs draws."""
        return any(each.random for each in self.filters)

    @property
    def repeats(self) -> int:
        """How often a canvas is to be defended and evaluated: 1 where nothing is random."""
        return max((each.repeats for each in self.filters), default=1)

    @property
    def smoothing(self) -> Smoothing | None:
        """What to do with the votes of the repeats, where their probabilities are not simply averaged."""
        if not self.filters or self.filters[0].function != SMOOTHING:
            return None
        return Smoothing(**dict(self.filters[0].parameters))  # type: ignore[arg-type]

    def steps(self, draws: Draws | None = None) -> Iterator[tuple[Filter, Draws | None]]:
        """The filters in their order, each with its own draws."""
        for number, each in enumerate(self.filters):
            yield each, None if draws is None else draws.at("filter", number)

    def check(self, side: int) -> None:
        """Raises InputError for a parameter that is out of its range for canvases of a side."""
        for each in self.filters:
            # The house's own look at parameters first, and have nothing else to do where there are no canvases.
            images = [] if each.function in DEFENSES else ["one", "other"]
            pictures = (probes(len(images), side) * WHITE).to(torch.uint8)
            draws = Draws(0, each.name, images)
            together = each.apply(defense_function(each.function), pictures, draws).int()
            for number in range(len(images)):
                alone = each.apply(defense_function(each.function), pictures[number : number + 1], draws.of(number))
                if (together[number] - alone[0]).abs().max() > 1:
                    raise InputError(
                        f"defense {each.function}: what it makes of a picture depends on the others of its batch; draw "
                        "by `draws`, or declare Purifier(…, batched=False)"
                    )

    def __call__(self, canvases: Tensor, draws: Draws | None = None) -> Tensor:
        """Applies the defence once.

        Args:
            draws: of these images, and of this repeat (`draws.at("repeat", n)`); needed if the defence is random.

        Raises:
            InputError: a parameter is out of its range.
            TypeError: the defence is random, and there are no draws.
        """
        for each, own in self.steps(draws):
            canvases = each.apply(defense_function(each.function), canvases, own)
        return canvases


NO_DEFENSE = Defense()

"""Operations that are drawn by probabilities which learn, during the attack, how much each raises the objective."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.gradients import Gradients
from transforms.attacks.parts.estimators import BaseEstimator, Estimate, for_each_copy
from transforms.attacks.parts.transformations import moved, of_another_class, resized_and_padded, rotated
from transforms.attacks.protocol import BaseTransformation, Batch
from transforms.randomness import Draws
from transforms.ranges import at_least
from transforms.spectrum import with_spectrum

Operation = Callable[[Tensor, Tensor, Draws], Tensor]
"""(image (1, 3, S, S), picture of another class, like it, draws of the image) -> a changed image, differentiable.

Where the authors' code makes several copies, whose losses are averaged, this makes one of them, drawn at random.
"""
_NOISE = 16 / 255
_COPIES = 5
"""Of turns, crops and moves."""
_ADMIX_SCALES = 3


def same(image: Tensor, other: Tensor, draws: Draws) -> Tensor:
    return image


def turn(image: Tensor, other: Tensor, draws: Draws, *, degrees: float) -> Tensor:
    """By that many degrees, counterclockwise, or half of them, a quarter …"""
    return rotated(image, math.radians(degrees) / 2 ** _integer(_COPIES, draws))


def darken(image: Tensor, other: Tensor, draws: Draws, *, copies: int) -> Tensor:
    """Brightness divided by 1, 2, 4 …"""
    return image / 2.0 ** _integer(copies, draws)


def resize(image: Tensor, other: Tensor, draws: Draws, *, rate: float) -> Tensor:
    """A diverse input."""
    return resized_and_padded(image, rate, *draws.uniform((3,), "numbers")[0].tolist())


def shuffle(image: Tensor, other: Tensor, draws: Draws, *, blocks: int) -> Tensor:
    """Cut into strips that change places, and each of them across, at lines of its own."""
    axis = 2 + _integer(2, draws)
    strips = _pieces(image, axis, blocks, draws)
    across = [_pieces(strip, 5 - axis, blocks, draws.at("strip", number)) for number, strip in enumerate(strips)]
    return torch.cat([torch.cat(pieces, dim=5 - axis) for pieces in across], dim=axis)


def mix(image: Tensor, other: Tensor, draws: Draws, *, strength: float) -> Tensor:
    """A share of another picture added, and brightness divided by 1, 2 or 4."""
    return (image + strength * other) / 2.0 ** _integer(_ADMIX_SCALES, draws)


def drop(image: Tensor, other: Tensor, draws: Draws, *, probabilities: Sequence[float]) -> Tensor:
    """Values made 0 with one of the probabilities; the others stay as they are."""
    probability = probabilities[_integer(len(probabilities), draws)]
    return image * (draws.uniform(image.shape[1:], "values").to(image) >= probability)


def mask(image: Tensor, other: Tensor, draws: Draws, *, blocks: int) -> Tensor:
    """One block of a grid made black."""
    side = image.shape[-1]
    row, column = draws.integers(blocks, (2,), "block")[0].tolist()
    lines = [round(side / blocks * line) for line in range(blocks + 1)]
    black = torch.zeros_like(image, dtype=torch.bool)
    black[:, :, lines[row] : lines[row + 1], lines[column] : lines[column + 1]] = True
    return image.masked_fill(black, 0.0)


def simulate(image: Tensor, other: Tensor, draws: Draws, *, spread: float) -> Tensor:
    """Noise, and cosine coefficients multiplied at random."""
    shape = image.shape[1:]
    noise = _NOISE * draws.normal(shape, "noise").to(image)
    return with_spectrum(image + noise, 1 + spread * (2 * draws.uniform(shape, "spectrum").to(image) - 1))


def crop(image: Tensor, other: Tensor, draws: Draws, *, ratio: float) -> Tensor:
    """The middle enlarged: of one of five sides, evenly spaced between that share (excluded) and the whole."""
    side = image.shape[-1]
    inner = int(side * (ratio + (1 - ratio) * (1 + _integer(_COPIES, draws)) / _COPIES))
    start = (side - inner) // 2
    middle = image[:, :, start : start + inner, start : start + inner]
    return F.interpolate(middle, size=(side, side), mode="bilinear", align_corners=False)


def move(image: Tensor, other: Tensor, draws: Draws, *, offset: float) -> Tensor:
    """To the right and down, by one to five fifths of an offset in pixels."""
    away = 2 / image.shape[-1] * offset * (1 + _integer(_COPIES, draws)) / _COPIES
    return moved(image, -away, -away)


def _integer(below: int, draws: Draws) -> int:
    return int(draws.integers(below, (), "copy")[0])


def _pieces(picture: Tensor, axis: int, blocks: int, draws: Draws) -> list[Tensor]:
    """Strips across an axis, in random order, of lengths in proportion to random numbers; some may be empty."""
    parts = (1 - draws.uniform((blocks,), "lengths")[0]).double().cumsum(dim=0)
    lines = (parts / parts[-1] * picture.shape[axis]).round().long()
    strips = torch.split(picture, lines.diff(prepend=lines.new_zeros(1)).tolist(), dim=axis)
    return [strips[each] for each in draws.permutation(blocks, "order")[0].tolist()]


_DROPPED = ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5), (2, 3, 4, 5), (1, 3, 4, 5), (1, 2, 4, 5))
OPERATIONS: tuple[Operation, ...] = (
    same,
    *(partial(turn, degrees=30 * number) for number in range(1, 11)),
    *(partial(darken, copies=number) for number in range(1, 11)),
    *(partial(resize, rate=(22 + number) / 20) for number in range(10)),
    *(partial(shuffle, blocks=number) for number in range(3, 13)),
    *[partial(mix, strength=0.2)] * 5,
    *[partial(mix, strength=0.4)] * 5,
    *(
        partial(drop, probabilities=[tenths / 10 for tenths in chosen])
        for chosen in (*_DROPPED, (1, 2, 3, 5), (1, 2, 3, 4))
    ),
    *(partial(mask, blocks=number) for number in (2, 4, 6, 8, 10, 3, 5, 7, 9, 11)),
    *(partial(simulate, spread=number / 10) for number in (2, 4, 5, 6, 8, 1, 3, 7, 9)),
    *(partial(crop, ratio=number / 10) for number in range(1, 10)),
    *(partial(move, offset=(10 + number) / 20) for number in range(9)),
)
"""Those of the authors' code, in its order. Its mixtures differ in how many pictures are mixed in, each by itself; one
drawn of them is always the same, so each strength stands here five times."""


@dataclass(frozen=True)
class Chosen(BaseTransformation):
    """Operations, one after the other, that were chosen for each image: numbers of `OPERATIONS`, int64 (B, count)."""

    operations: Tensor
    copies: ClassVar[int] = 1
    mixes: ClassVar[bool] = True

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        for number, which in enumerate(self.operations.T.tolist()):
            path = draws.at("operation", number)
            images, others = torch.split(points, 1), torch.split(of_another_class(points, path, batch), 1)
            points = torch.cat(
                [
                    OPERATIONS[each](image, other, path.of(place))
                    for place, (each, image, other) in enumerate(zip(which, images, others, strict=True))
                ]
            )
        return points


class Policy:
    """With which probability each image takes each operation: the softmax of parameters, at first all alike."""

    def __init__(self, images: int, rate: float) -> None:
        self._rate = rate
        self._parameters = torch.zeros(images, len(OPERATIONS), dtype=torch.float64)

    @property
    def probabilities(self) -> Tensor:
        """(B, operations), double precision, on the CPU."""
        return self._parameters.softmax(dim=1)

    def drawn(self, count: int, draws: Draws) -> Tensor:
        """Numbers of operations, with replacement: int64 (B, count)."""
        uniform = draws.uniform((count,), "operations").double()
        below = self.probabilities.cumsum(dim=1)
        return torch.searchsorted(below, uniform, right=True).clamp(max=len(OPERATIONS) - 1)

    def learn(self, chosen: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """A step along the gradient of the mean of the objective, times the probability of what was chosen.

        Args:
            chosen: numbers of operations, (B, count) each.
            values: the objective under each, (B,).
        """
        before, total = self.probabilities, torch.zeros_like(self._parameters)
        for which, value in zip(chosen, values, strict=True):
            together = before.gather(1, which).prod(dim=1)
            often = torch.zeros_like(before).scatter_add(1, which, torch.ones_like(which, dtype=before.dtype))
            weight = torch.where(value.isfinite(), value, 0).double().cpu() * together
            total += weight[:, None] * (often - which.shape[1] * before)
        self._parameters = self._parameters + self._rate * total / len(chosen)


@dataclass(frozen=True)
class LearntOperations(BaseEstimator):
    """L2T: the mean gradient of copies, each changed by operations that are drawn by probabilities which learn (Zhu et
    al. 2024, arXiv:2405.14077, as in the authors' code).

    Attributes:
        copies: of each step.
        operations: of each copy, one after the other.
        rate: at which parameters of probabilities learn.
    """

    copies: int
    operations: int
    rate: float
    random: ClassVar[bool] = True
    mixes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, num_scale=self.copies, ops_num=self.operations)
        at_least(0, learning_rate=self.rate)

    def begin(self) -> Estimate:
        policy: Policy | None = None

        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            nonlocal policy
            policy = Policy(len(points), self.rate) if policy is None else policy
            total, chosen, values = torch.zeros_like(points), [], []
            for number in range(self.copies):
                path = draws.at("copy", number)
                chosen.append(policy.drawn(self.operations, path))
                changed = replace(gradients, transformations=(Chosen(chosen[-1]), *gradients.transformations))
                gradient, value = changed.with_values(points, path)
                total = total + gradient
                values.append(value)
            policy.learn(chosen, values)
            return total / self.copies

        return estimate

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(steps * self.copies, models, copies)

"""Input transformations: changed copies that the surrogates are shown instead of a canvas, for gradients that transfer.

Each makes a number of differentiable copies. Whatever is random is drawn per image and per copy, never for a batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.per_image import per_image, where
from transforms.attacks.protocol import BaseTransformation, Batch
from transforms.data.pixels import WHITE
from transforms.errors import InputError
from transforms.randomness import Draws
from transforms.ranges import above, at_least, within
from transforms.spectrum import lowest_cosines, radii, with_spectrum


@dataclass(frozen=True)
class DiverseInput(BaseTransformation):
    """Enlarged by a random factor, put at a random place on a black square and resized back, or left alone
    (Xie et al. 2019, arXiv:1803.06978; resized back, because models take canvases of one size).

    Attributes:
        resize_rate: side of the black square in units of the canvas's, > 1.
        probability: of doing so.
    """

    resize_rate: float
    probability: float
    copies: ClassVar[int] = 1

    def __post_init__(self) -> None:
        above(1, resize_rate=self.resize_rate)
        within("(0, 1]", diversity_probability=self.probability)

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        changed = (draws.uniform((), "diversity") < self.probability).tolist()
        places = draws.uniform((3,), "resize")
        return torch.cat(
            [
                resized_and_padded(image, self.resize_rate, *place.tolist()) if change else image
                for image, change, place in zip(torch.split(points, 1), changed, places, strict=True)
            ]
        )


@dataclass(frozen=True)
class ResizedDiversity(BaseTransformation):
    """Diverse inputs at several resize rates, whose logits are averaged (Zou et al. 2020, arXiv:2112.06011)."""

    resize_rates: tuple[float, ...]
    fused: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for rate in self.resize_rates:
            above(1, resize_rates=rate)
        if not self.resize_rates:
            raise InputError("resize_rates: the list is empty")

    @property
    def copies(self) -> int:
        return len(self.resize_rates)

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        return DiverseInput(self.resize_rates[copy], probability=1.0)(points, 0, draws, batch)


@dataclass(frozen=True)
class Scales(BaseTransformation):
    """Brightness divided by 1, 2, 4 … (Lin et al. 2020, arXiv:1908.06281)."""

    copies: int
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(2, scales=self.copies)  # with one it would have no effect

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        return points / 2.0**copy


@dataclass(frozen=True)
class Mixing(BaseTransformation):
    """A share of a random picture of another class, added (Wang et al. 2021, arXiv:2102.00436).

    The pictures are those of the pool, the same for every batch. An image that finds no other class there gets a share
    of itself.
    """

    copies: int
    strength: float
    mixes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, mixed_images=self.copies)
        above(0, admix_strength=self.strength)

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        return points + self.strength * of_another_class(points, draws, batch)


@dataclass(frozen=True)
class MixMask(BaseTransformation):
    """Brightness times factors that are evenly spaced between two ends, and every value times that of a mask, which is
    1 - reach and twice the reach of a random picture of another class (Wang et al. 2023, arXiv:2311.12051). The
    gradient is taken with respect to the copy, not through it.

    Pictures are those of the pool, as in `Mixing`.

    Attributes:
        low, high: the smallest and the largest factor.
        scales: how many.
        masks: of each scale.
        reach: how far a mask's values are from 1, at most.
    """

    low: float
    high: float
    scales: int
    masks: int
    reach: float
    mixes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(2, uniform_scales=self.scales)
        at_least(1, mix_masks=self.masks)
        within("(0, 1]", scale_low=self.low, mask_range=self.reach)
        above(self.low, scale_high=self.high)

    @property
    def copies(self) -> int:
        return self.scales * self.masks

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        factor = self.low + (self.high - self.low) * (copy % self.scales) / (self.scales - 1)
        mask = 1 - self.reach + 2 * self.reach * of_another_class(points, draws, batch)
        return _as_seen((factor * mask * points.detach()).clamp(0, 1), points)


@dataclass(frozen=True)
class SpectrumSimulation(BaseTransformation):
    """Gaussian noise, then every cosine coefficient multiplied by a random number about 1
    (Long et al. 2022, arXiv:2207.05382). As in the paper's algorithm 1, the gradient is taken with respect to
    the copy, not through it.

    Attributes:
        noise: standard deviation, in the unit of [0, 1] pixels.
        spread: coefficients are multiplied by numbers from [1 - spread, 1 + spread].
    """

    copies: int
    noise: float
    spread: float

    def __post_init__(self) -> None:
        at_least(1, spectra=self.copies)
        within("[0, 1]", spectrum_spread=self.spread)
        at_least(0, spectrum_noise=self.noise)
        if self.noise == self.spread == 0:
            raise InputError("spectrum_noise, spectrum_spread: 0 and 0 would leave every copy as it is")

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        shape = points.shape[1:]
        noise = self.noise * draws.normal(shape, "noise").to(points)
        factors = 1 + self.spread * (2 * draws.uniform(shape, "spectrum").to(points) - 1)
        with torch.no_grad():
            seen = with_spectrum(points + noise, factors)
        return _as_seen(seen, points)


FrequencyMask = Literal["soft", "hard"]
_SOFTNESS = 10.0
"""Over how many cycles per canvas a soft mask falls from 0.73 to 0.27."""


@dataclass(frozen=True)
class MixedFrequencies(BaseTransformation):
    """High frequencies of a random picture of another class, and Gaussian noise ("Enhancing Transferability of
    Adversarial Examples Through Mixed-Frequency Inputs", TIFS 2024, as in TransferAttack's code).

    A hard mask leaves of high frequencies those of the other picture alone. A soft one falls smoothly, and high
    frequencies are somewhere between both pictures', at a random share. Pictures are those of the pool, as in `Mixing`.

    Attributes:
        radius: up to which frequencies are low, cycles per canvas.
        noise: standard deviation, in the unit of [0, 1] pixels.
        kind: of the mask.
    """

    copies: int
    radius: float
    noise: float
    kind: FrequencyMask
    mixes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, mixed_spectra=self.copies)
        above(0, mask_radius=self.radius)
        at_least(0, gaussian_sigma=self.noise)

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        side = points.shape[-1]
        distances = side * radii(side, points.device)
        if self.radius >= distances.max():
            raise InputError(
                f"mask_radius: {self.radius} leaves no high frequency of a canvas of {side} pixels; take less"
            )
        if self.kind == "hard":
            kept = (distances <= self.radius).to(points)
        else:
            low = torch.sigmoid((self.radius - distances) / _SOFTNESS).to(points)
            kept = low + per_image(draws.uniform((), "share").to(points)) * (1 - low)
        other = of_another_class(points, draws, batch)
        mixed: Tensor = other + torch.fft.irfft2(kept * torch.fft.rfft2(points - other), s=(side, side))
        return mixed + self.noise * draws.normal(points.shape[1:], "noise").to(points)


@dataclass(frozen=True)
class StructureInvariance(BaseTransformation):
    """The canvas cut into blocks at random lines, each changed in one of ten ways (Wang et al. 2023,
    arXiv:2309.14700).

    Attributes:
        blocks: per axis.
    """

    copies: int
    blocks: int

    def __post_init__(self) -> None:
        at_least(1, structures=self.copies, structure_blocks=self.blocks)

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        side = points.shape[-1]
        if self.blocks > side:
            raise InputError(f"structure_blocks: {self.blocks} is more than the {side} pixels of a canvas's side")
        rows, columns = (draws.permutation(side - 1, axis)[:, : self.blocks - 1] + 1 for axis in ("rows", "columns"))
        chosen = draws.integers(len(_CHANGES), (self.blocks, self.blocks), "change")
        numbers = draws.uniform((self.blocks, self.blocks), "number")
        fields = draws.uniform(points.shape[1:], "field").to(points)
        changed = []
        for number, image in enumerate(torch.split(points, 1)):
            heights, widths = (_lengths(cuts[number], side) for cuts in (rows, columns))
            strips = [
                torch.cat(
                    [
                        _CHANGES[chosen[number, row, column]](block, float(numbers[number, row, column]), field)
                        for column, (block, field) in enumerate(
                            zip(torch.split(strip, widths, dim=3), torch.split(noise, widths, dim=2), strict=True)
                        )
                    ],
                    dim=3,
                )
                for row, (strip, noise) in enumerate(
                    zip(torch.split(image, heights, dim=2), torch.split(fields[number], heights, dim=1), strict=True)
                )
            ]
            changed.append(torch.cat(strips, dim=2))
        return torch.cat(changed)


@dataclass(frozen=True)
class Translations(BaseTransformation):
    """The canvas moved to each place of a square grid, black where nothing was (Fang et al. 2024, "Strong Transferable
    Adversarial Attacks via Ensembled Asymptotically Normal Distribution Learning", CVPR).

    Attributes:
        places: per axis.
        reach: the farthest, in half sides.
    """

    places: int
    reach: float
    random: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(2, shifts=self.places)
        within("(0, 2)", shift_range=self.reach)

    @property
    def copies(self) -> int:
        return self.places**2

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        right, down = (self.reach * (2 * place / (self.places - 1) - 1) for place in divmod(copy, self.places))
        return moved(points, right, down)


Angles = Literal["normal", "uniform"]
_CUT_OFF = 2.0
"""How many standard deviations of a normal angle the largest is."""


@dataclass(frozen=True)
class PatchOut(BaseTransformation):
    """A perturbation without some of its patches, which lie side by side from the upper left corner
    (Wei et al. 2022, arXiv:2109.04176).

    Attributes:
        kept: the share of patches whose perturbation stays.
        side: of a patch, pixels of the canvas.
    """

    kept: float
    side: int
    copies: ClassVar[int] = 1

    def __post_init__(self) -> None:
        within("(0, 1)", patches_kept=self.kept)
        at_least(1, patch_size=self.side)

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        width = points.shape[-1]
        across = -(-width // self.side)
        count = round(self.kept * across**2)
        if not 0 < count < across**2:
            raise InputError(
                f"patch_size: {self.side} cuts {width} pixels into {across**2} patches, of which {count} would stay; "
                "take less"
            )
        order = draws.permutation(across**2, "patches")
        flags = torch.zeros(len(points), across**2).scatter(1, order[:, :count], 1.0).view(-1, 1, across, across)
        mask = flags.repeat_interleave(self.side, dim=2).repeat_interleave(self.side, dim=3)[..., :width, :width]
        return batch.clean + mask.to(points.device) * (points - batch.clean)


@dataclass(frozen=True)
class BlockShuffle(BaseTransformation):
    """The canvas cut by a grid of random lines, whose rows and columns change places and whose blocks are rotated a
    little (Wang et al. 2024, arXiv:2308.10299; the lines are drawn as in the authors' code).

    Attributes:
        blocks: per axis; k blocks need a side of k (k + 1) / 2 pixels.
        rotation: the largest angle, degrees.
        angles: how they are drawn: from a normal distribution whose standard deviation is half the largest, at which it
            is cut off, or uniformly.
    """

    copies: int
    blocks: int
    rotation: float
    angles: Angles = "normal"

    def __post_init__(self) -> None:
        at_least(1, shuffles=self.copies, shuffle_blocks=self.blocks)
        within("[0, 180]", rotation=self.rotation)
        if self.blocks == 1 and self.rotation == 0:
            raise InputError("shuffle_blocks, rotation: 1 and 0 would leave every copy as it is")
        if self.rotation == 0 and self.angles != "normal":
            raise InputError(f"rotation_kind: {self.angles} has no effect with rotation: 0")

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        side, blocks = points.shape[-1], self.blocks
        if blocks * (blocks + 1) > 2 * side:  # the longest could not make up for the rounding of the others
            raise InputError(f"shuffle_blocks: {blocks} are too many for the {side} pixels of a canvas's side")
        heights, widths = (1 - draws.uniform((blocks,), axis) for axis in ("heights", "widths"))
        rows, columns = (draws.permutation(blocks, axis).tolist() for axis in ("rows", "columns"))
        angles = self._angles(draws.uniform((blocks, blocks), "angle"))
        shuffled = []
        for number, image in enumerate(torch.split(points, 1)):
            tall, wide = (_shares(each[number], side) for each in (heights, widths))
            grid = [torch.split(strip, wide, dim=3) for strip in torch.split(image, tall, dim=2)]
            turned = [
                torch.cat(
                    [rotated(grid[row][column], float(angles[number, row, column])) for column in columns[number]], 3
                )
                for row in rows[number]
            ]
            shuffled.append(torch.cat(turned, dim=2))
        return torch.cat(shuffled)

    def _angles(self, uniform: Tensor) -> Tensor:
        """Radians, of numbers from [0, 1)."""
        centred = 2 * uniform - 1
        if self.angles == "normal":
            inside = math.erf(_CUT_OFF / math.sqrt(2))
            centred = torch.erfinv(centred * inside) * math.sqrt(2) / _CUT_OFF
        return math.radians(self.rotation) * centred


def _as_seen(seen: Tensor, points: Tensor) -> Tensor:
    """A copy whose gradient counts as the canvas's."""
    return seen + (points - points.detach())


@dataclass(frozen=True)
class Everywhere(BaseTransformation):
    """The canvas, and copies of which all but one random block has ImageNet's mean colour (Zeng et al. 2025,
    arXiv:2501.00707).

    Attributes:
        partitions: blocks per side.
        samples: copies with a block alone.
    """

    partitions: int
    samples: int

    def __post_init__(self) -> None:
        at_least(2, partitions=self.partitions)
        at_least(1, local_samples=self.samples)

    @property
    def copies(self) -> int:
        return 1 + self.samples

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        side = points.shape[-1]
        if side < self.partitions:
            raise InputError(f"partitions: {self.partitions} are too many for a canvas of {side} pixels")
        if copy == 0:
            return points
        block = -(-side // self.partitions)
        place = draws.integers(self.partitions, (2,), "block").to(points.device)
        rows, columns = ((torch.arange(side, device=points.device) // block) == place[:, [axis]] for axis in (0, 1))
        mean = torch.tensor(_MEAN, device=points.device).view(1, 3, 1, 1)
        return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], points, mean)


_MEAN = (0.485, 0.456, 0.406)


def of_another_class(points: Tensor, draws: Draws, batch: Batch) -> Tensor:
    """For each image a random picture of the pool, (B, 3, S, S) in [0, 1], or itself where all are of its class."""
    if not len(batch.pool):
        return points.detach()
    order = draws.permutation(len(batch.pool), "mix").to(points.device)
    other = batch.pool_labels[order] != batch.goal.labels[:, None]
    first = other.int().argmax(dim=1, keepdim=True)
    pictures = batch.pool[order.gather(1, first).squeeze(1)].to(points) / WHITE
    return where(other.any(dim=1), pictures, points.detach())


def resized_and_padded(image: Tensor, rate: float, size: float, top: float, left: float) -> Tensor:
    """`size`, `top` and `left` are random numbers from [0, 1)."""
    side = image.shape[-1]
    largest = int(side * rate)
    if largest == side:
        raise InputError(f"resize_rate: {rate} does not enlarge a canvas of {side} pixels")
    enlarged = side + int(size * (largest - side))
    room = largest - enlarged
    above, before = int(top * room), int(left * room)
    resized = F.interpolate(image, size=(enlarged, enlarged), mode="bilinear", align_corners=False)
    padded = F.pad(resized, (before, room - before, above, room - above))
    return F.interpolate(padded, size=(side, side), mode="bilinear", align_corners=False)


def moved(points: Tensor, right: float, down: float) -> Tensor:
    """Canvases (B, 3, S, S) whose pixels come from so many half sides farther on, black outside."""
    matrix = points.new_tensor([[1, 0, right], [0, 1, down]]).expand(len(points), -1, -1)
    grid = F.affine_grid(matrix, list(points.shape), align_corners=False)
    return F.grid_sample(points, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _lengths(cuts: Tensor, side: int) -> list[int]:
    lines = [0, *sorted(cuts.tolist()), side]
    return [end - start for start, end in pairwise(lines)]


def _shares(parts: Tensor, side: int) -> list[int]:
    """Lengths in proportion to random numbers (blocks,), rounded; the longest takes the rest. Some may be 0."""
    lengths = (side * parts.double() / parts.double().sum()).round().int()
    lengths[lengths.argmax()] += side - lengths.sum()
    return [int(each) for each in lengths]


def rotated(block: Tensor, angle: float) -> Tensor:
    """Rotated about its centre by radians, black where nothing was."""
    height, width = block.shape[-2:]
    if not height * width:
        return block
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = block.new_tensor([[[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]]])
    grid = F.affine_grid(matrix, list(block.shape), align_corners=False)
    return F.grid_sample(block, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


# The ten changes of a block (1, 3, h, w): (block, number from [0, 1), field (3, h, w) of such numbers) -> block.
# Magnitudes are those of the authors' code.
_Change = Callable[[Tensor, float, Tensor], Tensor]
_NOISE = 16 / 255
_SHRUNK = 0.8
_KEPT = 0.6
_DROPPED = 0.1


def _down(block: Tensor, number: float, field: Tensor) -> Tensor:
    return block.roll(int(number * block.shape[2]), dims=2)


def _right(block: Tensor, number: float, field: Tensor) -> Tensor:
    return block.roll(int(number * block.shape[3]), dims=3)


def _upside_down(block: Tensor, number: float, field: Tensor) -> Tensor:
    return block.flip(2)


def _mirrored(block: Tensor, number: float, field: Tensor) -> Tensor:
    return block.flip(3)


def _half_turn(block: Tensor, number: float, field: Tensor) -> Tensor:
    return block.flip((2, 3))


def _darker(block: Tensor, number: float, field: Tensor) -> Tensor:
    return number * block


def _noisy(block: Tensor, number: float, field: Tensor) -> Tensor:
    return (block + _NOISE * (2 * field - 1)).clamp(0, 1)


def _coarser(block: Tensor, number: float, field: Tensor) -> Tensor:
    height, width = block.shape[2:]
    small = F.interpolate(block, size=(int(_SHRUNK * height) + 1, int(_SHRUNK * width) + 1), mode="bilinear")
    return F.interpolate(small, size=(height, width), mode="bilinear").clamp(0, 1)


def _smoother(block: Tensor, number: float, field: Tensor) -> Tensor:
    rows, columns = (lowest_cosines(side, _KEPT).to(block) for side in block.shape[2:])
    return rows.T @ (rows @ block @ columns.T) @ columns


def _dropped(block: Tensor, number: float, field: Tensor) -> Tensor:
    return block * (field >= _DROPPED) / (1 - _DROPPED)


_CHANGES: tuple[_Change, ...] = (
    _down,
    _right,
    _upside_down,
    _mirrored,
    _half_turn,
    _darker,
    _noisy,
    _coarser,
    _smoother,
    _dropped,
)

"""What the tests of attacks share: small networks whose numbers are known, and short ways to attack them."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy import fft, optimize
from scipy.interpolate import RBFInterpolator
from torch import Tensor, nn

from transforms.attacks.balls import BALLS, Ball
from transforms.attacks.objectives import Goal
from transforms.attacks.protocol import Attack, Batch
from transforms.attacks.recipes.names import recipe
from transforms.attacks.surrogates import Surrogates
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.views import View, center
from transforms.randomness import Draws

SIDE = 12
SHAPE = (3, SIDE, SIDE)
SIZE = 3 * SIDE**2
EPS = {"linf": 12 / 255, "l2": 0.9, "l1": 14.0}
"""Budgets that mean about as much in each norm."""

QUICK: dict[str, Any] = {
    "steps": 3,
    "neighbors": 2,
    "ensemble_number": 2,
    "integrated_steps": 2,
    "reference_steps": 2,
    "local_samples": 2,
    "samples": 3,
    "pre_steps": 2,
    "spectra": 2,
    "uniform_scales": 2,
    "mix_masks": 2,
    "structures": 2,
    "shuffles": 2,
    "shifts": 3,
    "patch_size": 4,
    "operators": 2,
    "auxiliary": 1,
    "warpings": 2,
    "mixed_images": 2,
    "mixed_spectra": 2,
    "mask_radius": 3.0,
    "num_scale": 2,
    "scales": 2,
    "resize_rates": (1.2, 1.5),
    "kernel_size": 3,
    "inner_steps": 3,
    "inner_rounds": 2,
}
"""Parameters that make a quick attack of any recipe."""

PATHS = ("mi-di-ti", "vmi-di-ti-si", "mi-admix-ti", "pgd-ssa", "ni-dem", "bim-lf", "cwa-di", "mi-patchout")
"""Combinations beside the named recipes."""


class Sums(nn.Module):
    """One layer, or two with a sine between: plain sums, which unlike matrix kernels round the same in any batch.

    What the last one sums up is the answer of the module `hidden`.
    """

    def __init__(self, first: np.ndarray, last: np.ndarray | None = None, bias: np.ndarray | None = None) -> None:
        super().__init__()
        self.hidden = nn.Identity()
        self.first = nn.Parameter(torch.from_numpy(first).float())
        self.last = None if last is None else nn.Parameter(torch.from_numpy(last).float())
        self.bias: Tensor
        self.register_buffer("bias", torch.zeros(1) if bias is None else torch.from_numpy(bias).float())

    def forward(self, windows: Tensor) -> Tensor:
        values = windows.flatten(1)
        if self.last is not None:
            values = torch.sin((values[:, None] * self.first).sum(dim=2))
        last = self.first if self.last is None else self.last
        return (self.hidden(values)[:, None] * last).sum(dim=2) + self.bias


def slope_weights(classes: int, seed: int = 0) -> np.ndarray:
    """Of a linear model: small enough for softmax not to saturate, and nowhere equal between classes."""
    return np.random.default_rng(seed).normal(size=(classes, SIZE)) / SIZE


def bent(seed: int = 0, classes: int = 4, side: int = SIDE) -> Sums:
    """A network with curvature, so that the gradient turns on the way; by as much whatever the side."""
    rng = np.random.default_rng(seed)
    return Sums(rng.normal(size=(16, 3 * side**2)) / (side / 2), rng.normal(size=(classes, 16)))


class _Summed(nn.Linear):
    """Sums that round the same in any batch."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False)
        self.weight = nn.Parameter(torch.from_numpy(weight).float())

    def forward(self, values: Tensor) -> Tensor:
        return (values[:, None] * self.weight).sum(dim=2)


class _Sine(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return torch.sin(values)


class Deep(nn.Module):
    """Three layers of plain sums with sines between, which are the answers of the modules `first` and `second`."""

    def __init__(self, one: np.ndarray, other: np.ndarray, last: np.ndarray) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(_Summed(each), _Sine()) for each in (one, other))
        self.last = _Summed(last)

    @property
    def weights(self) -> list[Tensor]:
        return [each.weight for each in self.modules() if isinstance(each, _Summed)]

    def forward(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.last(self.second(self.first(windows.flatten(1))))
        return logits


def deep(seed: int = 0, classes: int = 4, side: int = SIDE) -> Deep:
    """A network with curvature on either side of its usual layer, which is the first."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(16, 3 * side**2)) / (side / 2)
    return Deep(first, rng.normal(size=(12, 16)) / 2, rng.normal(size=(classes, 12)))


@dataclass(frozen=True)
class Twin:
    """A `bent` network in NumPy, double precision, for one image at a time; gradients are written out by hand."""

    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, network: Sums) -> "Twin":
        assert network.last is not None
        return cls(*(each.detach().double().numpy() for each in (network.first, network.last)))

    def logits(self, values: np.ndarray) -> np.ndarray:
        return self.last @ np.sin(self.first @ values.ravel())

    def pulled(self, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The gradient of `wanted` @ logits."""
        back = ((wanted @ self.last) * np.cos(self.first @ values.ravel())) @ self.first
        return back.reshape(values.shape)

    def gradient(self, values: np.ndarray, label: int, target: int | None = None) -> np.ndarray:
        """Of the cross-entropy with the label, or of its negative with the target."""
        outer = softmax(self.logits(values))
        outer[label if target is None else target] -= 1
        return self.pulled(values, outer if target is None else -outer)

    def loss(self, values: np.ndarray, label: int) -> float:
        return float(-np.log(softmax(self.logits(values))[label]))


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


class Counted(nn.Module):
    """Counts the images that really went through it, forwards and backwards."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forwards = self.backwards = 0

    def forward(self, windows: Tensor) -> Tensor:
        self.forwards += len(windows)
        try:
            logits: Tensor = self.network(windows)
        except Exception:  # where an attack has seen enough
            if windows.requires_grad:
                windows.register_hook(self._count)
            raise
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class Watched(nn.Module):
    """Remembers what it was shown."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.shown: list[Tensor] = []

    def forward(self, windows: Tensor) -> Tensor:
        self.shown.append(windows.detach().clone())
        logits: Tensor = self.network(windows)
        return logits


class Table(nn.Module):
    """Logits looked up by the grey level of the first value; without slope, so that an attack stays at its start."""

    def __init__(self, logits: dict[int, list[float]]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, windows: Tensor) -> Tensor:
        found = [self.logits[round(level * 255)] for level in windows[:, 0, 0, 0].tolist()]
        return torch.tensor(found) + 0 * windows.sum()


def as_is(network: nn.Module, side: int = SIDE) -> Classifier:
    """A network that is shown pixels in [0, 1] as they are."""
    return Classifier(network, Preprocessing(side, side, "bilinear", mean=(0, 0, 0), std=(1, 1, 1)))


def surrogates(*networks: nn.Module, side: int = SIDE, view: View = center, **more: Any) -> Surrogates:
    return Surrogates([as_is(each, side) for each in networks], view, 1.0, **more)


def for_recipe(name: str, models: int | None = None) -> list[Sums] | list[Deep]:
    """As many bent networks as make sense for it, or `models`; deep ones if it looks inside."""
    seeds = range(recipe(name).models if models is None else models)
    return [deep(seed) for seed in seeds] if make(name).looks_inside else [bent(seed) for seed in seeds]


def some_canvases(count: int, seed: int = 0, side: int = SIDE, ends: Sequence[int] = (0, 1, 254, 255)) -> Tensor:
    """A third of the values at the ends of the range, where the box cuts in."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (count, 3, side, side))
    at_ends = rng.choice(ends, values.shape)
    return torch.from_numpy(np.where(rng.random(values.shape) < 1 / 3, at_ends, values).astype(np.uint8))


POOL, POOL_LABELS = some_canvases(5, seed=99), torch.tensor([0, 1, 2, 3, 1])


def draws_for(count: int, first: int = 0) -> Draws:
    return Draws(0, "attack", [f"image {first + number}" for number in range(count)])


def batch_of(
    canvases: Tensor,
    labels: Sequence[int] | Tensor,
    targets: Sequence[int] | Tensor | None = None,
    *,
    first: int = 0,
    seed: int = 0,
) -> Batch:
    """A batch whose images are called by number, from `first`."""
    goal = Goal(torch.as_tensor(labels), None if targets is None else torch.as_tensor(targets))
    pool = (POOL, POOL_LABELS) if canvases.shape[1:] == SHAPE else (canvases, goal.labels)
    names = [f"image {first + number}" for number in range(len(canvases))]
    return Batch(canvases, goal, Draws(seed, "attack", names), *pool)


def make(name: str, norm: str = "linf", eps: float | None = None, **parameters: Any) -> Attack:
    made = recipe(name)
    return made.make(BALLS[norm](EPS[norm] if eps is None else eps) if made.norms else None, **parameters)


def quick(name: str, norm: str = "linf", eps: float | None = None, **parameters: Any) -> Attack:
    """The same with few steps and copies."""
    known = recipe(name).parameters
    return make(name, norm, eps, **{**{key: QUICK[key] for key in QUICK if key in known}, **parameters})


def recording(ball: Ball) -> tuple[Ball, list[Tensor]]:
    """A ball that remembers the float canvases that it rounded."""
    seen: list[Tensor] = []

    class Recording(type(ball)):  # type: ignore[misc]
        def to_grid(self, canvases: Tensor, adversarial: Tensor) -> Tensor:
            seen.append(adversarial.detach().clone())
            stored: Tensor = super().to_grid(canvases, adversarial)
            return stored

    return Recording(ball.eps), seen


def iterate(name: str, ball: Ball, models: Surrogates, batch: Batch, **parameters: Any) -> Tensor:
    """The float canvases with which an attack ends, before they are rounded."""
    watched, seen = recording(ball)
    recipe(name).make(watched, **parameters)(models, batch)
    return seen[-1]


def found_by(attack: Attack, models: Surrogates, batch: Batch) -> Tensor:
    return attack(models, batch).canvases


def differences(found: Tensor, canvases: Tensor) -> np.ndarray:
    """Whole levels, int64 (B, values)."""
    assert found.dtype == torch.uint8 and found.shape == canvases.shape
    return (found.long() - canvases.long()).flatten(1).numpy()


def spent(norm: str, changes: np.ndarray) -> np.ndarray:
    """The norm of rows of changes, in exact integers under the root."""
    if norm == "linf":
        return abs(changes).max(axis=1)
    return np.sqrt((changes**2).sum(axis=1)) if norm == "l2" else abs(changes).sum(axis=1)


Box = tuple[np.ndarray, np.ndarray]


def nearest(norm: str, wanted: np.ndarray, eps: float, box: Box) -> np.ndarray:
    """The projection of one image on ball and box by the multiplier of the norm's constraint, found as a root."""
    low, high = box

    def at(multiplier: float) -> np.ndarray:
        if norm == "l2":
            return np.clip(wanted / (1 + multiplier), low, high)
        return np.clip(np.sign(wanted) * np.maximum(abs(wanted) - multiplier, 0), low, high)

    def excess(multiplier: float) -> float:
        return float(np.linalg.norm(at(multiplier).ravel(), 2 if norm == "l2" else 1)) - eps

    if norm == "linf":
        return np.clip(wanted, np.maximum(low, -eps), np.minimum(high, eps))
    if excess(0) <= 0:
        return wanted.clip(low, high)
    far = 1.0
    while excess(far) > 0:
        far *= 2
    return at(optimize.brentq(excess, 0, far, xtol=1e-15, rtol=1e-14))


def furthest(norm: str, direction: np.ndarray, eps: float, box: Box) -> np.ndarray:
    """Of ball and box, the point furthest along a direction: L∞ by signs, L1 by filling up the steepest first, L2 by a
    multiple of the direction, cut off at the box."""
    low, high = box
    room = np.where(direction > 0, high, -low)
    if norm == "linf":
        return np.sign(direction) * np.minimum(room, eps)
    if norm == "l1":
        order = np.argsort(-abs(direction), kind="stable")
        before = np.concatenate([[0.0], np.cumsum(room[order])[:-1]])
        found = np.zeros_like(direction)
        found[order] = np.clip(eps - before, 0, room[order])
        return found * np.sign(direction)
    if np.linalg.norm(np.where(direction != 0, room, 0)) <= eps:
        return np.sign(direction) * room

    def excess(factor: float) -> float:
        return float(np.linalg.norm(np.clip(factor * direction, low, high))) - eps

    far = 1.0
    while excess(far) < 0:
        far *= 2
    return np.clip(optimize.brentq(excess, 0, far, xtol=1e-15) * direction, low, high)


def bilinear(length: int, out: int) -> np.ndarray:
    """The matrix of resizing a line bilinearly: pixel centres at halves, clamped at the ends."""
    matrix = np.zeros((out, length))
    for row in range(out):
        at = (row + 0.5) * length / out - 0.5
        below = math.floor(at)
        for place, weight in ((below, 1 - (at - below)), (below + 1, at - below)):
            matrix[row, min(max(place, 0), length - 1)] += weight
    return matrix


def turning(height: int, width: int, angle: float) -> np.ndarray:
    """The matrix of turning a picture, whose rows stand one after the other, about its centre by radians: each pixel is
    bilinear between the four around where it comes from, of which those outside are black."""
    matrix = np.zeros((height * width, height * width))
    down, right = np.mgrid[:height, :width].reshape(2, -1) - np.array([[height - 1], [width - 1]]) / 2
    rows = math.sin(angle) * right + math.cos(angle) * down + (height - 1) / 2
    columns = math.cos(angle) * right - math.sin(angle) * down + (width - 1) / 2
    for lower, farther in itertools.product((0, 1), (0, 1)):
        near, beside = np.floor(rows).astype(int) + lower, np.floor(columns).astype(int) + farther
        weights = (1 - abs(rows - near)) * (1 - abs(columns - beside))
        inside = (near >= 0) & (near < height) & (beside >= 0) & (beside < width)
        matrix[inside.nonzero()[0], (near * width + beside)[inside]] = weights[inside]
    return matrix


def grid_shuffle(lengths: Sequence[Sequence[int]], orders: Sequence[Sequence[int]], angles: np.ndarray) -> np.ndarray:
    """The matrix of cutting a square picture into rows and columns of these lengths, turning each block, and putting
    rows and columns into these orders."""
    places = np.arange(sum(lengths[0]) ** 2).reshape(sum(lengths[0]), -1)
    starts = [np.cumsum([0, *each]) for each in lengths]
    matrix = np.zeros((places.size, places.size))
    top = 0
    for row in orders[0]:
        left, height = 0, lengths[0][row]
        for column in orders[1]:
            width = lengths[1][column]
            source = places[starts[0][row] :, starts[1][column] :][:height, :width]
            target = places[top : top + height, left : left + width]
            matrix[np.ix_(target.ravel(), source.ravel())] = turning(height, width, angles[row, column])
            left += width
        top += height
    return matrix


def in_proportion(parts: np.ndarray, side: int) -> list[int]:
    """Whole lengths in proportion to `parts`; the longest takes what rounding left over."""
    lengths = [round(each) for each in parts / parts.sum() * side]
    lengths[lengths.index(max(lengths))] += side - sum(lengths)
    return lengths


def enlarging(side: int, rate: float, numbers: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A diverse input as matrices of rows and columns: enlarged, put somewhere on black, resized back."""
    size, *starts = numbers
    largest = int(side * rate)
    enlarged = side + int(size * (largest - side))
    sides = []
    for start in starts:
        placed = np.zeros((largest, side))
        offset = int(start * (largest - enlarged))
        placed[offset : offset + enlarged] = bilinear(side, enlarged)
        sides.append(bilinear(largest, side) @ placed)
    return sides[0], sides[1]


TURNS = (5, -5, 15, -15, 45, -45, 90, -90, 180)
MANY_OPERATORS = 31


def operator_matrix(which: int, numbers: Sequence[float], side: int = SIDE) -> np.ndarray:
    """Each of the operators of OPS: none, two shifts, two flips, nine turns, seven divisors, ten diverse inputs."""
    places = np.arange(side**2).reshape(side, side)
    if which < 5:
        axis = (which - 1) % 2
        moved = (
            (np.roll(places, int(numbers[0] * side), axis) if which < 3 else np.flip(places, axis)) if which else places
        )
        return np.eye(side**2)[moved.ravel()]
    if which < 14:
        return turning(side, side, math.radians(TURNS[which - 5]))
    if which < 21:
        return np.eye(side**2) / (which - 12)
    return np.kron(*enlarging(side, 1.1 + 0.2 * (which - 21) + 1e-9, numbers))


def by_matrix(matrix: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """A picture (3, S, S), each channel of which is multiplied as one vector."""
    return (picture.reshape(3, -1) @ matrix.T).reshape(picture.shape)


L2T: list[tuple[str, Any]] = [
    ("identity", None),
    *(("rotate", 30 * number) for number in range(1, 11)),
    *(("sim", number) for number in range(1, 11)),
    *(("dim", rate) for rate in (1.1, 1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.45, 1.5, 1.55)),
    *(("blockshuffle", number) for number in range(3, 13)),
    *(("admix", strength) for strength in (0.2, 0.4) for _ in range(5)),
    *(("ide", [tenths / 10 for tenths in range(1, last)]) for last in range(2, 7)),
    *(("ide", each) for each in ([0.2, 0.3, 0.4, 0.5], [0.1, 0.3, 0.4, 0.5], [0.1, 0.2, 0.4, 0.5])),
    *(("ide", each) for each in ([0.1, 0.2, 0.3, 0.5], [0.1, 0.2, 0.3, 0.4])),
    *(("masked", number) for number in (2, 4, 6, 8, 10, 3, 5, 7, 9, 11)),
    *(("ssm", rho) for rho in (0.2, 0.4, 0.5, 0.6, 0.8, 0.1, 0.3, 0.7, 0.9)),
    *(("crop", ratio) for ratio in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    *(("affine", offset) for offset in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)),
]
"""The operations of the code of L2T's authors, in its order; of admix's pictures and masks it makes equal ones."""


class Numbers(Protocol):
    """Where the reference of L2T takes its random numbers from, by name."""

    def uniform(self, shape: tuple[int, ...], name: str) -> np.ndarray: ...
    def normal(self, shape: tuple[int, ...], name: str) -> np.ndarray: ...
    def integers(self, below: int, count: int, name: str) -> list[int]: ...
    def permutation(self, size: int, name: str) -> list[int]: ...
    def at(self, *path: object) -> "Numbers": ...


def strips(places: np.ndarray, axis: int, blocks: int, numbers: Numbers) -> list[np.ndarray]:
    parts = np.cumsum(1 - numbers.uniform((blocks,), "lengths"))
    lines = np.round(parts[:-1] / parts[-1] * places.shape[axis]).astype(int)
    cut = np.split(places, lines, axis=axis)
    return [cut[each] for each in numbers.permutation(blocks, "order")]


def of_l2t(
    which: int, points: np.ndarray, other: np.ndarray, numbers: Numbers, copy: Callable[[int], int]
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """One of the copies of a picture (3, S, S) that an operation makes, and how a gradient comes back from there.

    Args:
        copy: of so many copies, which one.
    """
    (kind, parameter), side = L2T[which], points.shape[-1]
    matrix: np.ndarray = np.eye(side**2)
    rows = np.eye(side)
    if kind == "rotate":
        matrix = turning(side, side, math.radians(parameter / 2 ** copy(5)))
    elif kind == "sim":
        matrix = matrix / 2 ** copy(parameter)
    elif kind == "dim":
        matrix = np.kron(*enlarging(side, parameter, numbers.uniform((3,), "numbers").tolist()))
    elif kind == "blockshuffle":
        places, axis = np.arange(side**2).reshape(side, side), numbers.integers(2, 1, "copy")[0]
        shuffled = [
            np.concatenate(strips(strip, 1 - axis, parameter, numbers.at("strip", number)), axis=1 - axis)
            for number, strip in enumerate(strips(places, axis, parameter, numbers))
        ]
        matrix = matrix[np.concatenate(shuffled, axis=axis).ravel()]
    elif kind == "admix":
        scale = 2 ** copy(3)
        return (points + parameter * other) / scale, lambda pulled: pulled / scale
    elif kind == "ide":
        kept = numbers.uniform(points.shape, "values") >= parameter[copy(len(parameter))]
        return points * kept, lambda pulled: pulled * kept
    elif kind == "masked":
        row, column = numbers.integers(parameter, 2, "block")
        step, kept = side / parameter, np.ones((side, side))
        kept[round(step * row) : round(step * (row + 1)), round(step * column) : round(step * (column + 1))] = 0
        return points * kept, lambda pulled: pulled * kept
    elif kind == "ssm":
        noise = 16 / 255 * numbers.normal(points.shape, "noise")
        factors = 1 + parameter * (2 * numbers.uniform(points.shape, "spectrum") - 1)

        def changed(picture: np.ndarray) -> np.ndarray:
            return fft.idctn(fft.dctn(picture, axes=(-2, -1), norm="ortho") * factors, axes=(-2, -1), norm="ortho")

        return changed(points + noise), changed
    elif kind == "crop":
        inner = int(side * (parameter + (1 - parameter) * (copy(5) + 1) / 5))
        matrix = np.kron(*[bilinear(inner, side) @ rows[(side - inner) // 2 :][:inner]] * 2)
    elif kind == "affine":
        away = parameter * (copy(5) + 1) / 5
        matrix = np.kron(*[(1 - away) * rows + away * np.eye(side, k=-1)] * 2)
    return by_matrix(matrix, points), lambda pulled: by_matrix(matrix.T, pulled)


class Warp:
    """Thin plates over three by three control points of which the middle one moves, and bilinear values from there."""

    _ENDS = np.argwhere(np.ones((3, 3))) - 1.0
    _PIXELS = (2 * np.argwhere(np.ones((SIDE, SIDE))) + 1) / SIDE - 1
    share = RBFInterpolator(_ENDS, np.eye(9)[4], kernel="thin_plate_spline", degree=1)(_PIXELS)

    def __init__(self, move: np.ndarray) -> None:
        """`move` is across and down, in half sides."""
        self.rows, self.columns = (
            ((self._PIXELS[:, axis] + self.share * move[1 - axis] + 1) * SIDE - 1) / 2 for axis in (0, 1)
        )

    def matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the values, and of how they change when rows or columns come from farther on, in pixels."""
        made = np.zeros((3, SIDE**2, SIDE**2))
        for down, across in itertools.product((0, 1), (0, 1)):
            near, beside = np.floor(self.rows).astype(int) + down, np.floor(self.columns).astype(int) + across
            inside = ((near >= 0) & (near < SIDE) & (beside >= 0) & (beside < SIDE)).nonzero()[0]
            by_row, by_column = (1 - abs(self.rows - near))[inside], (1 - abs(self.columns - beside))[inside]
            source = (near * SIDE + beside)[inside]
            made[0, inside, source] = by_row * by_column
            made[1, inside, source] = (2 * down - 1) * by_column
            made[2, inside, source] = (2 * across - 1) * by_row
        return made[0], made[1], made[2]

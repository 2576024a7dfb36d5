"""Square: random search with squares, on logits alone."""

import math
from bisect import bisect_left
from dataclasses import dataclass, field

import torch
from torch import Tensor

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.shared import Standing, bounded_in
from transforms.attacks.objectives import cross_entropy, margin
from transforms.attacks.per_image import per_image, where
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipe import Recipe
from transforms.attacks.surrogates import Surrogates
from transforms.data.pixels import WHITE
from transforms.randomness import Draws
from transforms.ranges import at_least, within

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10,000, after which the squares' area is halved."""
_TILES = 5
"""Windows across the first perturbation in L2."""


@dataclass(frozen=True, kw_only=True)
class Square(BaseAttack):
    """Keeps a random square of change wherever it raises the objective. An image is done at its first success.

    In L∞ every query is a canvas of 8 bits. In L2, what fools the model is rounded and asked again. Defaults are the
    paper's for ImageNet.

    Attributes:
        ball: L∞ or L2.
        queries: candidates for each image, at most, with the first, stripes or windows all over it.
        p_init: the part of the image that the first squares cover; None for 5 % in L∞ and 10 % in L2.
    """

    ball: Ball = field(kw_only=False)
    queries: int = 10_000
    p_init: float | None = None

    def __post_init__(self) -> None:
        bounded_in(self.ball, ["linf", "l2"])
        at_least(1, queries=self.queries)
        within("(0, 1)", p_init=self._first_area)

    @property
    def steps(self) -> int:
        return self.queries

    @property
    def _first_area(self) -> float:
        if self.p_init is not None:
            return self.p_init
        return 0.05 if self.ball.norm == "linf" else 0.1

    def cost(self, models: int) -> tuple[int, int]:
        return models * (1 + self.queries * (1 if self.ball.norm == "linf" else 2)), 0

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        """Andriushchenko et al. 2020, algorithm 1. The margin with any class, the cross-entropy with a wanted one."""
        objective = margin if batch.goal.targets is None else cross_entropy
        standing = Standing.begin(surrogates, batch)
        for query in range(self.queries):
            asked = surrogates.counting(standing.active)
            if asked.idle:
                break
            adversarial = self._candidate(batch, standing.closest, query)
            fools, values = asked.judge(adversarial, objective, batch.goal)
            better = standing.improve(adversarial, values)
            self._accept(surrogates, batch, adversarial, fools & better, standing)
        return Found(standing.found(self.ball, batch.canvases))

    def _accept(
        self, surrogates: Surrogates, batch: Batch, adversarial: Tensor, fools: Tensor, standing: Standing
    ) -> None:
        if not bool(fools.any()):
            return
        rounded = self.ball.to_grid(batch.canvases, adversarial)
        if self.ball.norm == "linf":  # nothing was rounded: the surrogates saw just this
            standing.canvases = where(fools, rounded, standing.canvases)
            standing.active = standing.active & ~fools
        else:
            standing.test(surrogates, batch.goal, rounded, fools)

    def _candidate(self, batch: Batch, closest: Tensor, query: int) -> Tensor:
        """The next picture to ask about, float (B, 3, S, S)."""
        draws = batch.draws.at("query", query)
        if self.ball.norm == "linf":
            reach = math.floor(self.ball.eps * WHITE + 1e-9) / WHITE
            if query == 0:
                return _stripes(batch.clean, reach, draws)
            side = self._side(query, batch.clean.shape[-1])
            return _square_linf(batch.clean, closest, reach, side, draws)
        if query == 0:
            changed = _tiles(batch.clean, draws)
        else:
            side = max(self._side(query, batch.clean.shape[-1]), 3)
            side = min(side + (side + 1) % 2, batch.clean.shape[-1])
            changed = _square_l2(closest - batch.clean, self.ball.eps, side, draws)
        return (batch.clean + changed * (self.ball.eps / _norm(changed, (1, 2, 3)).clamp(min=1e-12))).clamp(0, 1)

    def _side(self, query: int, size: int) -> int:
        """Side of the square, pixels: its area is halved after the queries that the paper names (§3)."""
        halvings = bisect_left(_HALVED_AFTER, (query - 1) * 10_000 // self.queries)
        return min(max(round(math.sqrt(self._first_area / 2**halvings) * size), 1), size)


def _signs(draws: Draws, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """-1 or 1, float (B, *shape)."""
    return (2 * draws.integers(2, shape, "signs") - 1).to(like)


def _stripes(clean: Tensor, reach: float, draws: Draws) -> Tensor:
    """Columns one pixel wide, up or down in each channel (§3.1)."""
    return _on_grid(clean + reach * _signs(draws, (clean.shape[1], 1, clean.shape[3]), clean))


def _square_linf(clean: Tensor, closest: Tensor, reach: float, side: int, draws: Draws) -> Tensor:
    """A square goes all the way up or down, in each channel (algorithm 2)."""
    (rows, columns) = _windows(clean, side, draws, "window")
    window = (rows[:, None, :, None] >= 0) & (columns[:, None, None, :] >= 0)
    return torch.where(window, _on_grid(clean + reach * _signs(draws, (clean.shape[1], 1, 1), clean)), closest)


def _on_grid(pixels: Tensor) -> Tensor:
    """Exactly the floats that a stored canvas is read as."""
    return (pixels * WHITE).round().clamp(0, WHITE) / WHITE


def _tiles(clean: Tensor, draws: Draws) -> Tensor:
    """Windows of both signs side by side, in a random direction and with random signs (§3.2); not normalised."""
    count, channels, size = clean.shape[0], clean.shape[1], clean.shape[-1]
    side = max(size // _TILES, 1)
    tiles = size // side
    shape = _bump(side).to(clean)
    upright = draws.integers(2, (1, tiles, 1, tiles, 1), "direction").to(clean.device).bool()
    signs = _signs(draws, (channels, tiles, 1, tiles, 1), clean)
    turned = torch.where(upright, shape[:, None, :], shape.T[:, None, :])
    tiled = (signs * turned).view(count, channels, tiles * side, tiles * side)
    margin_before = (size - tiles * side) // 2
    changed = torch.zeros_like(clean)
    inner = slice(margin_before, margin_before + tiles * side)
    changed[..., inner, inner] = tiled
    return changed


def _square_l2(changed: Tensor, eps: float, side: int, draws: Draws) -> Tensor:
    """Moves the change of a second window, and what of the budget is unused, into a first one (algorithm 3)."""
    rows, columns = _windows(changed, side, draws, "window")
    first = (rows[:, None, :, None] >= 0) & (columns[:, None, None, :] >= 0)
    other_rows, other_columns = _windows(changed, side, draws, "other window")
    second = (other_rows[:, None, :, None] >= 0) & (other_columns[:, None, None, :] >= 0)
    shape = _bump(side).to(changed)
    placed = shape[rows.clamp(min=0)[:, :, None], columns.clamp(min=0)[:, None, :]]
    turned = shape.T[rows.clamp(min=0)[:, :, None], columns.clamp(min=0)[:, None, :]]
    upright = per_image(draws.integers(2, (), "direction").to(changed.device).bool())
    bump = torch.where(upright, placed[:, None], turned[:, None]) * first
    plane = (2, 3)
    old = changed * first
    new = bump * _signs(draws, (changed.shape[1], 1, 1), changed) + old / _norm(old, plane).clamp(min=1e-12)
    unused = (eps**2 - _norm(changed, (1, 2, 3)) ** 2).clamp(min=0)
    available = (_norm(changed * (first | second), plane) ** 2 + unused / changed.shape[1]).sqrt()
    new = new * available / _norm(new, plane).clamp(min=1e-12)
    return torch.where(first, new, changed.masked_fill(second, 0))


def _windows(like: Tensor, side: int, draws: Draws, draw: str) -> tuple[Tensor, Tensor]:
    """Places of a random square: for each row and for each column, int64 (B, S), its number in the square, or -1."""
    size = like.shape[-1]
    corners = draws.integers(size - side + 1, (2, 1), draw).to(like.device)
    numbers = torch.arange(size, device=like.device) - corners
    numbers = torch.where((numbers >= 0) & (numbers < side), numbers, -1)
    return numbers[:, 0], numbers[:, 1]


def _bump(side: int) -> Tensor:
    """Two halves of opposite sign, each highest in its middle; float (side, side), of norm 1 (§3.2, equation 2)."""
    upper = side // 2
    bump = torch.cat([_hill(upper, side), -_hill(side - upper, side)])
    normalized: Tensor = bump / torch.linalg.vector_norm(bump)
    return normalized


def _hill(height: int, width: int) -> Tensor:
    """Sum of 1 / k², k from the distance to the middle (the larger of the two, counted from 1) to the widest's."""
    if height == 0:
        return torch.zeros(0, width)
    from_middle = torch.maximum(
        (torch.arange(height) - height // 2).abs()[:, None], (torch.arange(width) - width // 2).abs()[None, :]
    )
    widest = max(height // 2, width // 2) + 1
    terms = 1 / torch.arange(1, widest + 1).double() ** 2
    return terms.flip(0).cumsum(0).flip(0)[from_middle].float()


def _norm(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """L2 over some axes, which stay."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=axes, keepdim=True)
    return norms


RECIPES = {
    "square": Recipe(
        "Andriushchenko et al. 2020, arXiv:1912.00049",
        [Square],
        kind="score",
        gradients=False,
        norms=("linf", "l2"),
    )
}

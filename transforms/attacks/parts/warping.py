"""Warping: a canvas pulled about at a few control points, as little as the objective falls."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.gradients import Gradients
from transforms.attacks.parts.estimators import BaseEstimator, Estimate, for_each_copy
from transforms.randomness import Draws
from transforms.ranges import at_least


@cache
def _spline(side: int, mesh: int) -> Tensor:
    """How far each pixel (side²) goes with each inner control point of a mesh ((mesh - 2)²): thin plates through all of
    the mesh (Bookstein 1989), double precision."""

    def surface(points: Tensor) -> Tensor:
        squares = ((points[:, None] - controls) ** 2).sum(dim=2)
        bent = squares * squares.clamp(min=torch.finfo(squares.dtype).tiny).log()
        return torch.cat([bent, torch.ones(len(points), 1).double(), points], dim=1)

    def places(line: Tensor) -> Tensor:
        return torch.cartesian_prod(line, line).flip(1)  # across, down

    controls = places(torch.linspace(-1, 1, mesh, dtype=torch.float64))
    affine = surface(controls)[:, mesh**2 :]
    system = torch.cat([surface(controls), torch.cat([affine.T, torch.zeros(3, 3).double()], dim=1)])
    weights = torch.linalg.inv(system)[:, : mesh**2]
    pixels = places((2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1)
    by_control = (surface(pixels) @ weights).view(side**2, mesh, mesh)
    inner: Tensor = by_control[:, 1:-1, 1:-1].flatten(1)
    return inner


def warped(points: Tensor, moves: Tensor) -> Tensor:
    """Canvases (B, 3, S, S) whose pixels come from elsewhere, black outside; differentiable by both arguments.

    Args:
        moves: (B, mesh - 2, mesh - 2, 2), where each inner point of a mesh over the canvas comes from, seen from where
            it is, across and down, in half sides. The mesh's border stays.
    """
    side, mesh = points.shape[-1], moves.shape[1] + 2
    spline = _spline(side, mesh).to(points)
    still = F.affine_grid(torch.eye(2, 3)[None].to(points), [1, 3, side, side], align_corners=False)
    images = []
    for image, move in zip(torch.split(points, 1), moves, strict=True):
        moved = (spline[:, :, None] * move.view(1, -1, 2)).sum(dim=1).view(1, side, side, 2)
        images.append(F.grid_sample(image, still + moved, "bilinear", "zeros", align_corners=False))
    return torch.cat(images)


@dataclass(frozen=True)
class ConstrainedWarping(BaseEstimator):
    """DeCoWA: the mean gradient of canvases warped at random, each to where the objective is a little lower
    (Lin et al. 2024, arXiv:2402.03951, algorithm 1).

    Attributes:
        warpings: how many.
        mesh: control points per axis.
        noise_scale: inner ones move by up to half of it, in half sides.
        rho: by how much of the objective's slope they move back.
    """

    warpings: int
    mesh: int
    noise_scale: float
    rho: float
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, warpings=self.warpings)
        at_least(3, mesh=self.mesh)  # fewer have no inner points

    def begin(self) -> Estimate:
        def estimate(gradients: Gradients, canvases: Tensor, points: Tensor, draws: Draws) -> Tensor:
            total = torch.zeros_like(points)
            for number in range(self.warpings):
                path, start = draws.at("warping", number), points.detach().requires_grad_()
                moves = self._constrained(gradients, points.detach(), path)
                seen = warped(start, moves)
                gradient = gradients.at(seen.detach(), path)
                total = total + torch.autograd.grad(seen, start, gradient)[0]
            return total / self.warpings

        return estimate

    def _constrained(self, gradients: Gradients, points: Tensor, draws: Draws) -> Tensor:
        inner = self.mesh - 2
        drawn = draws.uniform((inner, inner, 2), "moves").to(points) - 0.5
        moves = (self.noise_scale * drawn).requires_grad_()
        seen = warped(points, moves)
        gradient = gradients.at(seen.detach(), draws.at("constraint"))
        return (moves - self.rho * torch.autograd.grad(seen, moves, gradient)[0]).detach()

    def passes(self, steps: int, models: int, copies: int, redraws: bool) -> tuple[int, int]:
        return for_each_copy(2 * steps * self.warpings, models, copies)

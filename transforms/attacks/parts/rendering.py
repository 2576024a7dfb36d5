"""Object-based diverse input: the canvas as a picture on a solid that a random camera sees (Byun et al. 2022,
arXiv:2203.09123).

The authors render meshes. Here each ray of a pinhole camera meets a few solids in closed form. A solid is the common
part of surfaces x²/a² + y²/b² + z²/c² <= 1; with infinite half axes they are cylinders, and slabs between two planes.
Its canvas covers [-1, 1] across and down its front, which faces +z; +x is right, +y up.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from transforms.attacks.parts.filters import blur
from transforms.attacks.protocol import BaseTransformation, Batch
from transforms.errors import InputError, unknown
from transforms.randomness import Draws
from transforms.ranges import at_least, within

_FOCAL = math.sqrt(3)
"""Of a camera that sees 60 degrees, in half sides of its picture."""
_TINY = 1e-12
_INF = math.inf


@dataclass(frozen=True)
class Solid:
    """What wears the canvas.

    Attributes:
        surfaces: half axes of the surfaces that bound it. The first is the one that wears the canvas.
        bent: axes of the canvas that are measured along the solid's curve: none, across, or both.
    """

    surfaces: tuple[tuple[float, float, float], ...]
    bent: Literal[0, 1, 2] = 0

    @property
    def depth(self) -> float:
        """How far its front is from its middle."""
        return min(each[2] for each in self.surfaces)


SOLIDS = {
    "pack": Solid(((_INF, _INF, 0.5), (1.0, _INF, _INF), (_INF, 1.0, _INF))),
    "cup": Solid(((0.75, _INF, 0.75), (_INF, 1.1, _INF)), bent=1),
    "pillow": Solid(((1.5, 1.5, 0.5), (1.0, _INF, _INF), (_INF, 1.0, _INF))),
    "book": Solid(((_INF, _INF, 0.05), (1.1, _INF, _INF), (_INF, 1.1, _INF))),
    "ball": Solid(((1.0, 1.0, 1.0),), bent=2),
}
"""A box, a can, a cushion (the middle of an ellipsoid), a thin box with a margin, a sphere. Names are the authors'."""


class Camera(NamedTuple):
    """Where the camera stands, outside; it looks at the solid's middle.

    Attributes:
        elev, azim: how far up and how far to the right, degrees.
        angle: by which the solid is turned counter-clockwise on the spot, its front towards +z, degrees.
        dist: from the solid's middle; at 1 a canvas before its front would just fill the picture.
    """

    elev: float
    azim: float
    angle: float
    dist: float


class Light(NamedTuple):
    """A white lamp, whose light falls on the solid as Lambert says, and light from everywhere.

    Attributes:
        location: (x, y, z), in half sides of the canvas.
        ambient, diffuse: by which colours are multiplied: everywhere, and where the lamp shines straight down.
    """

    location: tuple[float, float, float]
    ambient: float
    diffuse: float


class Seen(NamedTuple):
    """What each pixel of a camera's picture shows of a solid.

    Attributes:
        hit: bool (S, S), whether it shows any.
        places: double (3, S, S), of the solid.
        normals: double (3, S, S), there, outwards, of any length.
        worn: bool (S, S), whether it is a place of the surface that wears the canvas.
    """

    hit: Tensor
    places: Tensor
    normals: Tensor
    worn: Tensor


def seen(solid: Solid, camera: Camera, like: Tensor) -> Seen:
    """Meets the rays through the middles of pixels with a solid, for a picture as large as `like` (…, S, S), in double
    precision: how far it is to a thin slab is the small difference of large squares."""
    origin, rays = _rays(solid, camera, like.shape[-1])
    origin, rays = origin.to(like.device), rays.to(like.device)
    weights = 1 / rays.new_tensor(solid.surfaces)[:, :, None, None] ** 2  # (surfaces, 3, 1, 1)
    square = (rays**2 * weights).sum(dim=1).clamp(min=_TINY)  # 0 along a slab, which then ends far away
    half = (origin * rays * weights).sum(dim=1)
    inside = half**2 - square * ((origin**2 * weights).sum(dim=1) - 1)
    root = inside.clamp(min=0).sqrt()
    enters, leaves = (torch.where(inside > 0, (sign * root - half) / square, -sign * _INF) for sign in (-1, 1))
    first, which = enters.max(dim=0)
    hit = first < leaves.amin(dim=0)
    places = origin + torch.where(hit, first, 0) * rays
    normals = places * weights[:, :, 0, 0].T[:, which]
    return Seen(hit, places, normals, hit & (which == 0) & (places[2] > 0))


def rendered(canvas: Tensor, solid: Solid, camera: Camera, light: Light, colour: Tensor, background: Tensor) -> Tensor:
    """A solid with a canvas on its front, bilinear between pixels; differentiable by the canvas.

    Args:
        canvas: float (1, 3, S, S) in [0, 1].
        colour: (3,), of what the canvas does not cover.
        background: (1, 3, S, S), behind the solid.

    Returns: float (1, 3, S, S), the solid in [0, 1].
    """
    shown = seen(solid, camera, canvas)
    across, down = _on_canvas(solid, shown.places)
    covered = shown.worn & (across.abs() <= 1) & (down.abs() <= 1)
    grid = torch.stack([across, down], dim=2)[None].to(canvas)
    picture = F.grid_sample(canvas, grid, mode="bilinear", padding_mode="border", align_corners=False)
    texture = torch.where(covered, picture, colour.view(1, 3, 1, 1))
    towards = shown.places.new_tensor(light.location).view(3, 1, 1) - shown.places
    falls = _cosine(shown.normals, towards).clamp(min=0).to(canvas)
    lit = (light.ambient + light.diffuse * falls) * texture
    # Nothing is darker than black. A bound there would stop the gradient of what is black.
    return torch.where(shown.hit, lit.clamp(max=1), background)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Between vectors (3, S, S). PyTorch's takes half of the time of a whole copy, for the norms along this axis."""
    return (one * other).sum(dim=0) / ((one**2).sum(dim=0) * (other**2).sum(dim=0)).sqrt()


def _rays(solid: Solid, camera: Camera, side: int) -> tuple[Tensor, Tensor]:
    """Where a camera is, (3, 1, 1), and where its pixels look, (3, S, S), as the solid sees it; double precision."""
    elev, azim, angle = (math.radians(each) for each in (camera.elev, camera.azim, camera.angle))
    turned = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    axes = [
        [math.cos(azim), 0, -math.sin(azim)],
        [-math.sin(elev) * math.sin(azim), math.cos(elev), -math.sin(elev) * math.cos(azim)],
        [math.cos(elev) * math.sin(azim), math.sin(elev), math.cos(elev) * math.cos(azim)],
    ]
    right, up, back = (torch.tensor(axes, dtype=torch.float64) @ torch.tensor(turned, dtype=torch.float64))[
        :, :, None, None
    ]
    places = ((2 * torch.arange(side).double() + 1) / side - 1) / _FOCAL
    rays = places * right - places[:, None] * up - back
    return camera.dist * (_FOCAL + solid.depth) * back, rays


def _on_canvas(solid: Solid, places: Tensor) -> tuple[Tensor, Tensor]:
    """Where places (3, S, S) of a solid's front lie on its canvas, across and down, in half sides."""
    x, y, z = places
    radius = solid.surfaces[0][2]
    across = radius * torch.atan2(x, z) if solid.bent else x
    down = -radius * torch.asin((y / radius).clamp(-1, 1)) if solid.bent == 2 else -y  # noqa: PLR2004 - both axes
    return across, down


@dataclass(frozen=True)
class Views:
    """Where cameras stand: drawn uniformly.

    Attributes:
        elev, azim, angle: up to so many degrees to either side.
        least, more: distances are from `least` to `least + more`, in the unit of `Camera.dist`.
    """

    elev: float
    azim: float
    angle: float
    least: float
    more: float

    def __post_init__(self) -> None:
        # Within these no camera stands in a solid, and each sees some of its front.
        within("[0, 45]", rand_elev=self.elev, rand_azim=self.azim)
        within("[0, 180]", rand_angle=self.angle)
        at_least(0.6, min_dist=self.least)
        at_least(0, rand_dist=self.more)

    def camera(self, elev: float, azim: float, angle: float, dist: float) -> Camera:
        """Of random numbers from [0, 1)."""
        sides = [2 * number - 1 for number in (elev, azim, angle)]
        return Camera(sides[0] * self.elev, sides[1] * self.azim, sides[2] * self.angle, self.least + self.more * dist)


@dataclass(frozen=True)
class Lights:
    """How bright it is: drawn uniformly, ambient from `ambient` to `ambient + more`, diffuse from 0 to `diffuse`. The
    lamp is up to two half sides away from a place four before the solid's middle, along each axis."""

    ambient: float
    more: float
    diffuse: float

    def __post_init__(self) -> None:
        at_least(0, ambient_color=self.ambient, rand_ambient_color=self.more, rand_diffuse_color=self.diffuse)
        if self.ambient == self.more == self.diffuse == 0:
            raise InputError("ambient_color, rand_ambient_color, rand_diffuse_color: 0, 0 and 0 would show all black")

    def light(self, x: float, y: float, z: float, ambient: float, diffuse: float) -> Light:
        """Of random numbers from [0, 1)."""
        location = (4 * x - 2, 4 * y - 2, 4 + 4 * z - 2)
        return Light(location, self.ambient + self.more * ambient, self.diffuse * diffuse)


def _random_pixel(points: Tensor, draws: Draws) -> Tensor:
    return draws.uniform(points.shape[1:], "background").to(points)


def _random_solid(points: Tensor, draws: Draws) -> Tensor:
    return draws.uniform((3, 1, 1), "background").to(points).expand_as(points)


_BLUR = blur("gaussian", 17, 5.0)
"""A standard deviation of 1.6 pixels, as the authors' kernel of 50 pixels has."""


def _blurred_image(points: Tensor, draws: Draws) -> Tensor:
    return torch.cat([_BLUR(image) for image in torch.split(points.detach(), 1)])


Background = Literal["random_pixel", "random_solid", "blurred_image"]
_BACKGROUNDS: dict[Background, Callable[[Tensor, Draws], Tensor]] = {
    "random_pixel": _random_pixel,
    "random_solid": _random_solid,
    "blurred_image": _blurred_image,
}


@dataclass(frozen=True)
class ObjectInput(BaseTransformation):
    """The canvas on a random solid, seen by a random camera in random light, before a background: noise, a colour, or
    the canvas, blurred (as a constant). What the canvas does not cover has a random colour.

    Attributes:
        names: of solids, of which each copy has one.
    """

    names: tuple[str, ...]
    views: Views
    lights: Lights
    background: Background
    copies: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in SOLIDS:
                raise unknown("solid in source_3d_models:", name, SOLIDS)
        if not self.names:
            raise InputError("source_3d_models: the list is empty")

    def __call__(self, points: Tensor, copy: int, draws: Draws, batch: Batch) -> Tensor:
        chosen = draws.integers(len(self.names), (), "object").tolist()
        cameras, lights = draws.uniform((4,), "camera").tolist(), draws.uniform((5,), "light").tolist()
        colours = (0.1 + 0.6 * draws.uniform((3,), "texture")).to(points)
        backgrounds = _BACKGROUNDS[self.background](points, draws)
        images = zip(torch.split(points, 1), chosen, cameras, lights, colours, torch.split(backgrounds, 1), strict=True)
        return torch.cat(
            [
                rendered(
                    image,
                    SOLIDS[self.names[which]],
                    self.views.camera(*camera),
                    self.lights.light(*light),
                    colour,
                    behind,
                )
                for image, which, camera, light, colour, behind in images
            ]
        )

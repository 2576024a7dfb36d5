"""Object-based diverse input: pictures of solids by hand, and against a renderer that searches along each ray."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch import Tensor

from tests.support.attacks import SHAPE, SIDE, batch_of, make, some_canvases
from tests.support.rendering import DEPTHS, outside, stands, traced
from transforms.attacks.loop import AttackLoop
from transforms.attacks.parts import rendering
from transforms.attacks.parts.rendering import (
    SOLIDS,
    Background,
    Camera,
    Light,
    Lights,
    ObjectInput,
    Views,
    rendered,
    seen,
)
from transforms.errors import InputError

SQUARE_ON = Camera(0, 0, 0, 1)
PLAIN = Light((0, 0, 4), 1.0, 0.0)
RED = torch.tensor([1.0, 0.0, 0.0])


def noise(side: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 0.9, (1, 3, side, side))).float()


def shown(canvas: Tensor, name: str, camera: Camera = SQUARE_ON, light: Light = PLAIN, behind: float = 0.5) -> Tensor:
    """Before grey, on red."""
    background = torch.full_like(canvas, behind)
    return rendered(canvas, SOLIDS[name], camera, light, RED.to(canvas), background)


def odi(*names: str, background: Background = "random_pixel", **views: float) -> ObjectInput:
    where = {"elev": 35.0, "azim": 35.0, "angle": 35.0, "least": 0.8, "more": 0.4, **views}
    return ObjectInput(names or ("pack", "pillow", "book"), Views(**where), Lights(0.6, 0.3, 0.5), background)


# Pictures by hand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pack", "book"])
@pytest.mark.parametrize("side", [12, 13, 224])
def test_a_flat_front_seen_square_on_is_the_canvas(name: str, side: int) -> None:
    """It just fills the picture, and light of 1 from everywhere is no shading. Turned, it is the canvas turned."""
    canvas = noise(side)
    assert torch.allclose(shown(canvas, name), canvas, atol=5e-5)
    for quarters in (1, 2, 3):  # counter-clockwise, of what is seen
        found = shown(canvas, name, Camera(0, 0, 90 * quarters, 1))
        assert torch.allclose(found, torch.rot90(canvas, quarters, (2, 3)), atol=5e-5)


def test_of_twice_the_distance_a_canvas_is_half_as_large() -> None:
    """From 2 (√3 + 1/20), a twentieth before a book's middle."""
    canvas = torch.ones(1, 3, 400, 400)
    camera = Camera(0, 0, 0, 2)
    covered = (shown(0 * canvas, "book", camera, behind=1.0)[0, 0] == 0).float()
    half = math.sqrt(3) / (2 * (math.sqrt(3) + 0.05) - 0.05)
    assert covered.sum(dim=1).amax().item() / 400 == pytest.approx(half, abs=1 / 200)
    assert covered.sum().item() / 400**2 == pytest.approx(half**2, abs=1 / 100)


@pytest.mark.parametrize(("name", "radius"), [("ball", 1.0), ("cup", 0.75)])
def test_round_solids_wear_the_canvas_along_their_curve(name: str, radius: float) -> None:
    """By the law of sines: a ray at an angle from the axis meets a circle at arcsin(d sin(angle) / r) - angle. Of a
    canvas that grows linearly, the picture's middle row shows where it was met."""
    side, distance = 31, math.sqrt(3) + radius
    ramp = (torch.arange(side) + 0.5) / side
    found = shown(ramp.expand(1, 3, side, side).contiguous(), name)[0, 1, side // 2]
    met = 0
    for column, value in enumerate(found.tolist()):
        angle = math.atan(((2 * column + 1) / side - 1) / math.sqrt(3))
        sine = distance * math.sin(angle) / radius
        if abs(sine) >= 1:
            assert value == 0.5  # the background
            continue
        along = radius * (math.asin(sine) - angle)
        if abs(along) > 1:
            assert value == 0  # the solid's own red
        elif abs(along) < 1 - 1 / side:
            assert value == pytest.approx((along + 1) / 2, abs=1e-5)
            met += 1
    assert met > 10


def test_a_camera_to_the_right_sees_what_is_on_the_right_nearer() -> None:
    """And one that is higher what is above, by the cosine: of a pack the side that it comes to see is red."""
    side = 60
    right, left = (shown(noise(side), "pack", Camera(0, azim, 0, 1.2))[0] for azim in (30, -30))
    above, below = (shown(noise(side), "pack", Camera(elev, 0, 0, 1.2))[0] for elev in (30, -30))

    def red(picture: Tensor) -> tuple[float, float]:
        rows, columns = ((picture[0] == 1) & (picture[1] == 0)).nonzero().double().mean(dim=0).tolist()
        return rows, columns

    middle = (side - 1) / 2
    assert red(right)[1] > middle + 10 and red(left)[1] < middle - 10
    assert red(above)[0] < middle - 10 and red(below)[0] > middle + 10


def test_a_camera_behind_sees_no_canvas() -> None:
    for name in SOLIDS:
        found = shown(torch.zeros(1, 3, 30, 30), name, Camera(0, 180, 0, 1))
        assert set(found[0, 0].unique().tolist()) <= {0.5, 1.0} and (found[0, 0] == 1).any()


def test_a_lamp_shines_as_lambert_says() -> None:
    """On a book square-on: ambient + diffuse cos, of the angle at each place; behind it nothing is lit."""
    side = 16
    at = (2 * torch.arange(side) + 1) / side - 1
    grey = torch.full((1, 3, side, side), 0.5)
    found = shown(grey, "book", light=Light((0.5, -1.0, 4.0), 0.4, 0.6))
    squares = (at[None, :] - 0.5) ** 2 + (-at[:, None] + 1.0) ** 2 + (4 - 0.05) ** 2
    assert torch.allclose(found[0, 0], 0.5 * (0.4 + 0.6 * (4 - 0.05) / squares.sqrt()), atol=1e-5)
    behind = shown(grey, "book", light=Light((0.5, -1.0, -4.0), 0.4, 0.6))
    assert torch.allclose(behind, torch.tensor(0.2))


def test_what_is_brighter_than_white_is_white() -> None:
    canvas = noise(SIDE)
    assert torch.allclose(shown(canvas, "book", light=Light((0, 0, 4), 2.0, 0.0)), (2 * canvas).clamp(max=1), atol=1e-5)


# Against a renderer that searches ------------------------------------------------------------------------------------


CAMERAS = [(0.0, 0.0, 0.0, 1.0), (21.0, -33.0, 12.0, 0.8), (-35.0, 35.0, -35.0, 1.2), (5.0, 28.0, 170.0, 1.4)]


@pytest.mark.parametrize("name", list(SOLIDS))
@pytest.mark.parametrize("camera", CAMERAS)
def test_every_solid_is_that_of_a_naive_renderer(name: str, camera: tuple[float, float, float, float]) -> None:
    side, location = 21, (1.3, -0.7, 2.5)
    canvas = noise(side).double()
    found = shown(canvas, name, Camera(*camera), Light(location, 0.55, 0.4))[0].flatten(1).numpy()
    naive = traced(name, side, camera)
    texture = np.where(naive.covered, canvas[0].flatten(1).numpy() @ naive.matrix.T, RED.numpy()[:, None])
    expected = np.where(naive.hit, np.clip(naive.light(location, 0.55, 0.4) * texture, 0, 1), 0.5)
    assert naive.covered.sum() > 50 and np.allclose(found, expected, atol=1e-5)


def test_solids_are_as_deep_as_they_are() -> None:
    assert {name: solid.depth for name, solid in SOLIDS.items()} == DEPTHS


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(SOLIDS)),
    *[st.floats(-45, 45) for _ in range(2)],
    st.floats(-180, 180),
    st.floats(0.6, 3.0),
)
def test_no_camera_stands_in_a_solid(name: str, elev: float, azim: float, angle: float, dist: float) -> None:
    """Nor does one see nothing of the canvas."""
    camera = (elev, azim, angle, dist)
    assert outside(name, stands(name, camera)[None])[0] > 1
    found = seen(SOLIDS[name], Camera(*camera), torch.zeros(1, 3, SIDE, SIDE))
    assert (found.hit & found.worn).any()


# Gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SOLIDS))
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    canvas = noise(7).double().requires_grad_()
    camera, light = Camera(20, -15, 30, 0.9), Light((1, 1, 3), 0.5, 0.4)
    assert torch.autograd.gradcheck(lambda each: shown(each, name, camera, light), canvas, atol=1e-7)


def test_what_is_black_has_a_gradient() -> None:
    canvas = torch.zeros(1, 3, SIDE, SIDE, requires_grad=True)
    (gradient,) = torch.autograd.grad(shown(canvas, "book", light=Light((0, 0, 4), 0.7, 0.0)).sum(), canvas)
    assert torch.allclose(gradient, torch.tensor(0.7), atol=1e-4)


@pytest.mark.parametrize("background", ["random_pixel", "random_solid", "blurred_image"])
def test_backgrounds_carry_no_gradient(background: Background) -> None:
    """Far away: the picture's edge is background. Noise, one colour, or the canvas blurred by 1.6 pixels."""
    batch = batch_of(some_canvases(3, side=40), [0, 1, 2])
    points = batch.clean.requires_grad_()
    found = odi(least=3.0, background=background)(points, 0, batch.draws, batch)
    edge, middle = found[..., :3].detach(), found[..., 15:25, 15:25]
    assert not torch.autograd.grad(found[..., :3].sum(), points, retain_graph=True)[0].any()
    assert torch.autograd.grad(middle.sum(), points)[0].flatten(1).any(dim=1).all()
    if background == "random_pixel":
        assert stats.kstest(edge.flatten(), "uniform").pvalue > 1e-4
    elif background == "random_solid":
        assert (edge == edge[..., :1, :1]).all() and len(edge.unique()) == 9
    else:
        expected = ndimage.gaussian_filter(
            batch.clean.numpy(), 1.6, axes=(2, 3), mode="constant", truncate=5, radius=None
        )
        assert np.allclose(edge, expected[..., :3], atol=1e-4)


def test_gradients_are_finite_where_nothing_is_met() -> None:
    """Where nothing is met, lengths of 0 and shares of them do no harm."""
    for name, side in itertools.product(SOLIDS, (12, 13)):
        canvas = noise(side).requires_grad_()
        found = shown(canvas, name, Camera(0, 0, 0, 2.5), Light((0, 0, 4), 0.6, 0.3))
        (gradient,) = torch.autograd.grad(found.sum(), canvas)
        assert found.isfinite().all() and gradient.isfinite().all() and gradient.any()


# Draws ---------------------------------------------------------------------------------------------------------------


def test_cameras_lights_and_solids_are_drawn_as_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each uniformly and per image; ranges are the authors'."""
    drawn: list[tuple[Any, ...]] = []

    def note(image: Tensor, *scene: Any) -> Tensor:
        drawn.append(scene)
        return image

    monkeypatch.setattr(rendering, "rendered", note)
    made = make("odi")
    assert isinstance(made, AttackLoop)
    batch = batch_of(some_canvases(1500), [0] * 1500)
    (transformation,) = made.transformations
    transformation(batch.clean, 0, batch.draws, batch)
    solids, cameras, lights, colours, _ = zip(*drawn, strict=True)
    counts = [sum(each is SOLIDS[name] for each in solids) for name in ("pack", "pillow", "book")]
    assert sum(counts) == 1500 and stats.chisquare(counts).pvalue > 1e-4
    ranges = [(-35, 35), (-35, 35), (-35, 35), (0.8, 1.2), (-2, 2), (-2, 2), (2, 6), (0.6, 0.9), (0, 0.5)]
    flat = [
        (*camera, *light.location, light.ambient, light.diffuse) for camera, light in zip(cameras, lights, strict=True)
    ]
    columns = [*np.array(flat).T, *torch.stack(colours).double().numpy().T]
    for column, (low, high) in zip(columns, [*ranges, *[(0.1, 0.7)] * 3], strict=True):
        assert stats.kstest(column, stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.12


def test_the_recipe_is_the_authors() -> None:
    """ODI-MI-TI with the logit loss: no other diverse input, momentum of gradients of equal weight, a kernel of 5."""
    made = make("odi")
    assert isinstance(made, AttackLoop)
    assert [type(each) for each in made.transformations] == [ObjectInput]
    assert made.cost(1) == (300, 300) and made.alpha == 2 / 255


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"source_3d_models": ()}, "source_3d_models: the list is empty"),
        ({"source_3d_models": ("pack", "cap")}, r"unknown solid in source_3d_models: 'cap'; did you mean 'cup'\?"),
        ({"rand_elev": 46.0}, r"rand_elev: 46.0 is not in \[0, 45\]"),
        ({"rand_azim": -1.0}, r"rand_azim: -1.0 is not in \[0, 45\]"),
        ({"rand_angle": 181.0}, r"rand_angle: 181.0 is not in \[0, 180\]"),
        ({"min_dist": 0.5}, "min_dist: 0.5 is not at least 0.6"),
        ({"rand_dist": -0.1}, "rand_dist: -0.1 is not at least 0"),
        ({"ambient_color": -0.1}, "ambient_color: -0.1 is not at least 0"),
        ({"rand_ambient_color": -0.1}, "rand_ambient_color: -0.1 is not at least 0"),
        ({"rand_diffuse_color": -0.1}, "rand_diffuse_color: -0.1 is not at least 0"),
        ({"ambient_color": 0, "rand_ambient_color": 0, "rand_diffuse_color": 0}, "ambient_color, .+: 0, 0 and 0 would"),
    ],
)
def test_senseless_parameters_are_refused_in_one_line(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}.*\Z"):
        make("odi", **parameters)


def test_an_image_is_shown_alike_in_any_batch() -> None:
    canvases = some_canvases(5)
    whole = batch_of(canvases, [0] * 5)
    together = odi("pack", "cup", "pillow", "book", "ball")(whole.clean, 0, whole.draws, whole)
    for number in range(5):
        alone = batch_of(canvases[[number]], [0], first=number)
        found = odi("pack", "cup", "pillow", "book", "ball")(alone.clean, 0, alone.draws, alone)
        assert torch.equal(found[0], together[number]) and found.shape == (1, *SHAPE)

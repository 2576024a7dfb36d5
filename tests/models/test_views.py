"""Views: explicit loops, canvases on which every pixel is known, and probabilities averaged by hand."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.views import VIEWS, five_crop, look, multi_scale, problem, saccades, ten_crop, windows


def numbered(side: int, count: int = 1) -> Tensor:
    """Canvases on which no two values are equal."""
    return torch.arange(count * 3 * side**2).view(count, 3, side, side)


def cut(canvases: Tensor, y: int, x: int, side: int) -> list[list[list[list[int]]]]:
    """The window whose upper left corner is at (y, x), pixel by pixel."""
    return [
        [[[int(canvases[b, c, y + i, x + j]) for j in range(side)] for i in range(side)] for c in range(3)]
        for b in range(len(canvases))
    ]


def corner(window: Tensor, side: int) -> tuple[int, int]:
    """Where a window of a `numbered` canvas was cut out."""
    return divmod(int(window[0, 0, 0, 0]), side)


SIDES = [(8, 4), (9, 4), (9, 5), (8, 5), (5, 5), (7, 1)]


@pytest.mark.parametrize(("side", "window"), SIDES)
def test_five_and_ten_crops_by_hand(side: int, window: int) -> None:
    canvases = numbered(side, count=2)
    far, middle = side - window, (side - window) // 2
    places = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    expected = [cut(canvases, y, x, window) for y, x in places]
    assert [each.tolist() for each in five_crop(canvases, window)] == expected
    mirrored = [[[[row[::-1] for row in plane] for plane in image] for image in crop] for crop in expected]
    assert [each.tolist() for each in ten_crop(canvases, window)] == expected + mirrored


@pytest.mark.parametrize(
    ("side", "window", "places"),
    [
        (256, 224, [(0, 256), (16, 224), (28, 199)]),  # 224 * 8 / 9 is 199.1
        (300, 224, [(22, 256), (38, 224), (50, 199)]),
        (71, 63, [(0, 71), (4, 63), (7, 56)]),  # 63 * 8 / 7 is 72: all there is
        (56, 56, [(0, 56), (0, 56), (3, 50)]),
    ],
)
def test_multi_scale_by_hand(side: int, window: int, places: list[tuple[int, int]]) -> None:
    canvases = numbered(side)
    for found, (first, size) in zip(multi_scale(canvases, window), places, strict=True):
        assert torch.equal(found, canvases[..., first : first + size, first : first + size])


def test_saccades_by_hand() -> None:
    """Of 6 x 6 pixels, windows of 4 around the centre (3, 3) and around (2, 2), (2, 4), (4, 2), (4, 4)."""
    canvas = torch.tensor([[10 * y + x for x in range(6)] for y in range(6)]).expand(1, 3, 6, 6)
    found = [window[0, 0].tolist() for window in saccades(canvas, 6)]
    assert found == [
        [[11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34], [41, 42, 43, 44]],
        [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23], [30, 31, 32, 33]],
        [[2, 3, 4, 5], [12, 13, 14, 15], [22, 23, 24, 25], [32, 33, 34, 35]],
        [[20, 21, 22, 23], [30, 31, 32, 33], [40, 41, 42, 43], [50, 51, 52, 53]],
        [[22, 23, 24, 25], [32, 33, 34, 35], [42, 43, 44, 45], [52, 53, 54, 55]],
    ]


@given(st.integers(4, 60), st.data())
def test_saccades_are_fixed_at_thirds(side: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(2, side))
    third, half = side / 3, side / 2
    fixations = [(half, half), *((y, x) for y in (third, side - third) for x in (third, side - third))]
    for found, (y, x) in zip(saccades(numbered(side), window), fixations, strict=True):
        size = found.shape[-1]
        assert size == -(-2 * window // 3)
        top, left = corner(found, side)
        assert abs(top + size / 2 - y) <= 1 and abs(left + size / 2 - x) <= 1


@pytest.mark.parametrize("view", VIEWS)
@given(st.integers(1, 60), st.data())
def test_windows_are_square_pieces_of_the_canvas(view: str, side: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, side))
    canvases = numbered(side, count=2)
    found = VIEWS[view](canvases, window)
    assert len(found) == windows(VIEWS[view])
    for each in found:
        size = each.shape[-1]
        assert each.shape == (2, 3, size, size) and 1 <= size <= side
        plain = each if each[0, 0, 0, 0] <= each[0, 0, 0, -1] else each.flip(-1)
        top, left = corner(plain, side)
        assert torch.equal(plain, canvases[..., top : top + size, left : left + size])


# When a view makes no sense ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
@given(st.integers(6, 80), st.data())
def test_a_view_without_problem_shows_different_windows(view: str, side: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(5, side))
    shown = [str(each.tolist()) for each in VIEWS[view](numbered(side), window)]
    if problem(view, side, window) is None:
        assert len(set(shown)) == len(shown)
    elif view in ("five-crop", "ten-crop"):
        assert side < window + 2 and len(set(shown)) < len(shown)


@pytest.mark.parametrize(
    ("view", "side", "window", "needed"),
    [
        ("five-crop", 224, 224, 226),
        ("ten-crop", 225, 224, 226),
        ("ten-crop", 299, 299, 301),
        ("multi-scale", 224, 224, 256),
        ("multi-scale", 256, 240, 274),
    ],
)
def test_a_canvas_that_is_too_small(view: str, side: int, window: int, needed: int) -> None:
    found = problem(view, side, window)
    assert found is not None and "\n" not in found
    assert found.startswith(f"{view} needs a canvas of at least {needed} pixels") and f" {side};" in found
    suggested = int(re.findall(r"give canvas.crop more, say (\d+)$", found)[0])
    assert problem(view, needed - 1, window) is not None
    assert problem(view, needed, window) is None and problem(view, suggested, window) is None


@pytest.mark.parametrize("view", ["center", "saccades"])
def test_views_that_any_canvas_will_do_for(view: str) -> None:
    assert problem(view, 224, 224) is None


# Looking -------------------------------------------------------------------------------------------------------------


def toy(size: int) -> Classifier:
    """Smooth, in double precision."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * (size - 2) ** 2, 5))
    # Evaluated on a tenth of a picture: of a slightly larger canvas the window is what the network takes.
    return Classifier(network, Preprocessing(size, 10 * size, "bilinear", (0.5,) * 3, (0.1,) * 3)).double()


def grey(side: int, count: int = 1) -> Tensor:
    """Far enough from 0 and 1 for nothing to be clipped."""
    return torch.from_numpy(np.random.default_rng(0).uniform(0.3, 0.7, (count, 3, side, side)))


@pytest.mark.parametrize("view", VIEWS)
def test_probabilities_are_averaged_over_the_windows(view: str) -> None:
    classifier, canvases = toy(7), grey(9, count=3)
    shares = []
    for window in VIEWS[view](canvases, 7):
        powers = np.exp(classifier(window).numpy())
        shares.append(powers / powers.sum(axis=1, keepdims=True))
    assert len(shares) == 1 or np.ptp(shares, axis=0).max() > 1e-3  # windows differ, or the mean would prove nothing
    found = look(classifier, VIEWS[view], canvases, 1.0).softmax(dim=1)
    assert np.allclose(found.numpy(), np.mean(shares, axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("view", VIEWS)
def test_gradients_are_those_of_finite_differences(view: str) -> None:
    classifier = toy(4)
    canvases = grey(6).requires_grad_()
    assert torch.autograd.gradcheck(lambda seen: look(classifier, VIEWS[view], seen, 1.0), canvases)

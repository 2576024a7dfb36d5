"""Defences as an attack sees them: exactly the defended canvas, and the gradient of what stands in for the defence."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import skimage.filters
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.defenses.test_defenses import EVERY
from tests.support.defenses import draws_for, pictures, waves
from transforms.defenses.defense import NO_DEFENSE, Defense
from transforms.defenses.differentiable import SMOOTH, differentiable, of_levels
from transforms.defenses.grid import parse
from transforms.defenses.registry import DEFENSES

SIDE = 24
every = pytest.mark.parametrize("defense", EVERY, ids=lambda each: each.name)


def gradient(defense: Defense, canvases: Tensor, pulled: Tensor) -> Tensor:
    """Of the sum of pulled * defended."""
    leaf = canvases.clone().requires_grad_()
    (found,) = torch.autograd.grad((pulled * differentiable(defense, draws_for(len(canvases)))(leaf)).sum(), leaf)
    return found


@every
def test_exactly_the_defended_canvas_is_seen(defense: Defense) -> None:
    canvases, draws = pictures(SIDE, count=3), draws_for(3)
    between = canvases.float() / 255 + torch.linspace(-0.0019, 0.0019, SIDE)
    rounded = torch.from_numpy(np.rint(between.clamp(0, 1).numpy() * np.float32(255)).astype(np.uint8))
    assert torch.equal(differentiable(defense, draws)(between), defense(rounded, draws) / 255)
    far = torch.linspace(-0.5, 1.5, 3 * SIDE**2).view(1, 3, SIDE, SIDE)
    nearest = (far.clamp(0, 1) * 255).round().to(torch.uint8)
    assert torch.equal(differentiable(defense, draws_for(1))(far), defense(nearest, draws_for(1)) / 255)


@every
def test_stand_ins_are_the_defences_before_rounding(defense: Defense) -> None:
    """Of pictures that need no clipping."""
    canvases, draws = waves(SIDE) // 2 + 64, draws_for(2)
    for part, own in defense.steps(draws):
        if part.function in SMOOTH:
            smooth = part.apply(SMOOTH[part.function], canvases.double() / 255, own)
            exact = part.apply(DEFENSES[part.function], canvases, own)
            assert (smooth * 255 - exact).abs().max() <= 0.5 + 1e-5


def resized_by_hand(picture: np.ndarray, inner: int, top: int, left: int, square: int) -> np.ndarray:
    """Enlarged bilinearly, put on black, and resized back, antialiased."""
    plane = torch.from_numpy(picture)[None, None]
    enlarged = F.interpolate(plane, size=(inner, inner), mode="bilinear", align_corners=False)
    padded = F.pad(enlarged, (left, square - inner - left, top, square - inner - top))
    return F.interpolate(padded, size=(SIDE, SIDE), mode="bilinear", antialias=True)[0, 0].numpy()


def resize_pad_of(image: int) -> Callable[[np.ndarray], np.ndarray]:
    numbers = draws_for(2).at("filter", 0).uniform((3,), "resize-pad")[image].tolist()
    inner = SIDE + int(numbers[0] * (36 - SIDE))
    top, left = (int(each * (36 - inner + 1)) for each in numbers[1:])
    return lambda picture: resized_by_hand(picture, inner, top, left, 36)


def random_crop_of(image: int) -> Callable[[np.ndarray], np.ndarray]:
    top, left = (int(each * 13) for each in draws_for(2).at("filter", 0).uniform((2,), "random-crop")[image].tolist())

    def cropped(picture: np.ndarray) -> np.ndarray:
        plane = torch.from_numpy(picture[top : top + 12, left : left + 12])[None, None]
        return F.interpolate(plane, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0].numpy()

    return cropped


def lowest_cosines(picture: np.ndarray) -> np.ndarray:
    coefficients = scipy.fft.dctn(picture, norm="ortho")
    coefficients[12:] = coefficients[:, 12:] = 0
    return scipy.fft.idctn(coefficients, norm="ortho")


def gaussian(picture: np.ndarray) -> np.ndarray:
    return np.fft.ifft2(scipy.ndimage.fourier_gaussian(np.fft.fft2(picture), 2 / np.pi)).real


OPERATORS: dict[str, Callable[[int], Callable[[np.ndarray], np.ndarray]]] = {
    "lowpass-gaussian:cutoff=0.5": lambda image: gaussian,
    "lowpass-butterworth:cutoff=0.5,order=2": lambda image: (
        lambda picture: skimage.filters.butterworth(picture, 0.25, high_pass=False, order=2)
    ),
    "lowpass-dct:cutoff=0.5": lambda image: lowest_cosines,
    "resize-pad:scale=1.5,repeats=1": resize_pad_of,
    "random-crop:crop=0.5,repeats=1": random_crop_of,
}
"""What stands in for each defence, in other libraries' hands, for each of two images. Low-pass and blur are checked in
test_surrogates.py."""


@pytest.mark.parametrize("written", OPERATORS)
def test_gradients_are_the_transposed_operators(written: str) -> None:
    """<gradient(v), u> = <v, operator(u)> for all u and v."""
    canvases = (waves(SIDE) // 2 + 64).double() / 255
    generator = torch.Generator().manual_seed(0)
    pulled = torch.randn(canvases.shape, generator=generator, dtype=torch.float64)
    found = gradient(parse(written), canvases, pulled)
    for image in range(2):
        operator = OPERATORS[written](image)
        for direction in torch.randn(3, SIDE, SIDE, generator=generator, dtype=torch.float64):
            for channel in range(3):
                expected = (pulled[image, channel] * torch.from_numpy(operator(direction.numpy().copy()))).sum()
                assert (found[image, channel] * direction).sum() == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize(
    "defense",
    [each for each in EVERY if not {part.function for part in each.filters} & SMOOTH.keys()],
    ids=lambda each: each.name,
)
def test_the_others_pass_gradients_as_they_are(defense: Defense) -> None:
    pulled = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gradient(defense, pictures(SIDE).float() / 255, pulled), pulled)


def test_a_composition_is_differentiated_filter_by_filter() -> None:
    canvases = pictures(SIDE).double() / 255
    pulled = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = gradient(parse("lowpass:cutoff=0.5+jpeg:quality=75+blur:sigma=1"), canvases, pulled)
    behind = gradient(parse("blur:sigma=1"), canvases, pulled)  # linear: the same everywhere
    assert torch.allclose(whole, gradient(parse("lowpass:cutoff=0.5"), canvases, behind), atol=1e-12)
    assert not torch.allclose(whole, behind, atol=1e-3)


def test_draws_choose_what_is_seen() -> None:
    canvases, defense = pictures(SIDE).float() / 255, parse("noise:sigma=0.1,repeats=2")
    seen = [differentiable(defense, draws_for(2).at("repeat", n))(canvases) for n in (0, 0, 1)]
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    with pytest.raises(TypeError, match="needs draws"):
        differentiable(defense)(canvases)


def test_no_defense_changes_nothing() -> None:
    between = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(differentiable(NO_DEFENSE)(between), between)


def test_whatever_has_a_stand_in_is_a_defence() -> None:
    assert SMOOTH.keys() <= DEFENSES.keys()


def test_a_stand_in_may_be_written_in_levels() -> None:
    def squared(canvases: Tensor, *, offset: float) -> Tensor:
        return canvases**2 / 255 + offset

    canvases = pictures(4).double() / 255
    assert torch.allclose(of_levels(squared)(canvases, offset=51.0), canvases**2 + 0.2)

"""Fovea, retina and V1 against their stated filters: closed forms, SciPy, and the published formulas written again."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from transforms.defenses.biology import (
    fovea,
    fovea_saccades,
    retina,
    smooth_fovea,
    smooth_fovea_saccades,
    smooth_retina,
    smooth_v1,
    steerable_filters,
    v1,
)
from transforms.errors import InputError
from transforms.randomness import Draws


def random_canvases(side: int, count: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(side).integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def one_colour(side: int, *levels: float) -> Tensor:
    return torch.tensor(levels, dtype=torch.float32).view(1, -1, 1, 1).expand(1, 3, side, side).clone()


def draws(count: int, first: int = 0) -> Draws:
    return Draws(0, "defense", [f"image {first + number}" for number in range(count)])


# All of them ---------------------------------------------------------------------------------------------------------

DEFENSES: dict[str, Callable[[Tensor, Draws], Tensor]] = {
    "fovea": lambda canvases, _: fovea(canvases, degrees=3.0, contrast=0.02, x=0.3, y=0.6),
    "fovea-saccades": lambda canvases, keyed: fovea_saccades(canvases, keyed, degrees=3.0, contrast=0.02),
    "retina": lambda canvases, _: retina(canvases, degrees=3.0, semisaturation=20.0),
    "v1": lambda canvases, keyed: v1(canvases, keyed, scales=2, orientations=3, noise=5.0),
}
SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "fovea": lambda canvases: smooth_fovea(canvases, degrees=3.0, contrast=0.02, x=0.3, y=0.6),
    "fovea-saccades": lambda canvases: smooth_fovea_saccades(canvases, draws(1), degrees=3.0, contrast=0.02),
    "retina": lambda canvases: smooth_retina(canvases, degrees=3.0, semisaturation=20.0),
    "v1": lambda canvases: smooth_v1(canvases, draws(1), scales=1, orientations=3, noise=5.0),
}


@pytest.mark.parametrize("side", [16, 21])
@pytest.mark.parametrize("name", DEFENSES)
def test_images_do_not_depend_on_their_batch(name: str, side: int) -> None:
    canvases = random_canvases(side, count=4)
    together = DEFENSES[name](canvases, draws(4))
    assert together.dtype == torch.uint8 and together.shape == canvases.shape
    assert not torch.equal(together, canvases)
    for number in range(4):
        assert torch.equal(
            DEFENSES[name](canvases[number : number + 1], draws(1, number)), together[number : number + 1]
        )


@pytest.mark.parametrize("name", ["fovea-saccades", "v1"])
def test_random_ones_follow_their_draws(name: str) -> None:
    canvases = random_canvases(16, count=1)
    first = DEFENSES[name](canvases, draws(1))
    assert torch.equal(DEFENSES[name](canvases, draws(1)), first)
    assert not torch.equal(DEFENSES[name](canvases, draws(1).at("repeat", 1)), first)


@pytest.mark.parametrize("name", DEFENSES)
def test_stand_ins_are_the_defences_but_for_rounding(name: str) -> None:
    canvases = random_canvases(16, count=1) // 4 + 96  # nothing is clipped
    stand_in = smooth_v1(canvases.double(), draws(1), scales=2, orientations=3, noise=5.0)
    if name != "v1":
        stand_in = SMOOTH[name](canvases.double())
    assert (DEFENSES[name](canvases, draws(1)) - stand_in).abs().max() <= 0.5 + 1e-6


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    canvases = random_canvases(6, count=1).double().requires_grad_()
    assert torch.autograd.gradcheck(SMOOTH[name], canvases)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_one_colour_are_finite(name: str) -> None:
    """Where no cell responds, a square root of responses would have an infinite slope."""
    canvases = one_colour(16, 0, 128, 255).requires_grad_()
    (gradient,) = torch.autograd.grad((SMOOTH[name](canvases) ** 2).sum(), canvases)
    assert gradient.dtype == torch.float32 and gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: fovea(c, degrees=0.0, contrast=0.5, x=0.5, y=0.5), "fovea: degrees 0.0 "),
        (lambda c: fovea(c, degrees=180.0, contrast=0.5, x=0.5, y=0.5), "fovea: degrees 180.0 "),
        (lambda c: fovea(c, degrees=math.nan, contrast=0.5, x=0.5, y=0.5), "fovea: degrees nan "),
        (lambda c: fovea(c, degrees=9.0, contrast=1 / 64, x=0.5, y=0.5), "fovea: contrast 0.015625 "),
        (lambda c: fovea(c, degrees=9.0, contrast=1.01, x=0.5, y=0.5), "fovea: contrast 1.01 "),
        (lambda c: fovea(c, degrees=9.0, contrast=0.5, x=-0.1, y=0.5), "fovea: x -0.1 "),
        (lambda c: fovea(c, degrees=9.0, contrast=0.5, x=0.5, y=1.1), "fovea: y 1.1 "),
        (lambda c: fovea_saccades(c, draws(2), degrees=9.0, contrast=2.0), "fovea-saccades: contrast 2.0 "),
        (lambda c: fovea_saccades(c, draws(2), degrees=-1.0, contrast=0.5), "fovea-saccades: degrees -1.0 "),
        (lambda c: retina(c, degrees=200.0, semisaturation=9.0), "retina: degrees 200.0 "),
        (lambda c: retina(c, degrees=9.0, semisaturation=0.0), "retina: semisaturation 0.0 "),
        (lambda c: retina(c, degrees=9.0, semisaturation=math.inf), "retina: semisaturation inf "),
        (lambda c: v1(c, draws(2), scales=0, orientations=4, noise=1.0), "v1: scales 0 is not in 1–3 for 16 pixels"),
        (lambda c: v1(c, draws(2), scales=4, orientations=4, noise=1.0), "v1: scales 4 is not in 1–3 for 16 pixels"),
        (lambda c: v1(c, draws(2), scales=1, orientations=0, noise=1.0), "v1: orientations 0 "),
        (lambda c: v1(c, draws(2), scales=1, orientations=17, noise=1.0), "v1: orientations 17 "),
        (lambda c: v1(c, draws(2), scales=1, orientations=4, noise=0.0), "v1: noise 0.0 "),
    ],
)
def test_parameters_out_of_range(call: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(InputError) as raised:
        call(random_canvases(16))
    assert str(raised.value).startswith(said) and "\n" not in str(raised.value)


# Fovea ---------------------------------------------------------------------------------------------------------------


def at_each_pixel(side: int, degrees: float, contrast: float, x: float, y: float) -> np.ndarray:
    """The frequency, in cycles/pixel, at which Geisler & Perry's threshold there is `contrast`, found by bisection."""
    places = (np.arange(side) + 0.5) / side
    eccentricity = degrees * np.hypot(places[None, :] - x, places[:, None] - y)
    low, high = np.zeros((side, side)), np.full((side, side), 1000.0)
    while (high - low).max() > 1e-9:
        middle = (low + high) / 2
        seen = np.log(1 / 64) + 0.106 * middle * (eccentricity + 2.3) / 2.3 < np.log(contrast)
        low, high = np.where(seen, middle, low), np.where(seen, high, middle)
    return low * degrees / side


def cosine(side: int, half_waves: int) -> np.ndarray:
    """A grating of half_waves / (2 side) cycles/pixel, which a mirrored border continues, of amplitude 1."""
    return np.cos(math.pi * half_waves * (np.arange(side) + 0.5) / side)


FIXATIONS = [(0.5, 0.5), (0.1, 0.8)]


@pytest.mark.parametrize(("degrees", "contrast"), [(60.0, 0.02), (10.0, 0.018)])
@pytest.mark.parametrize(("x", "y"), FIXATIONS)
@pytest.mark.parametrize("half_waves", [4, 12, 20, 30])
def test_a_grating_fades_where_it_is_too_fine_to_be_seen(
    x: float, y: float, half_waves: int, degrees: float, contrast: float
) -> None:
    side = 48
    wave = np.broadcast_to(cosine(side, half_waves), (side, side))
    for turned in (wave, wave.T):
        canvas = torch.from_numpy(turned.copy()).expand(1, 3, side, side)
        found = smooth_fovea(canvas, degrees=degrees, contrast=contrast, x=x, y=y)[0, 0].numpy()
        crests = abs(turned) > 0.1
        left = (found / np.where(crests, turned, 1))[crests]
        ratio = (half_waves / (2 * side) / at_each_pixel(side, degrees, contrast, x, y))[crests]
        known = ratio > 2 * half_waves / (2 * side)  # not where the canvas is partly sharp
        # A Gaussian of which half is left at ratio 1; between blurs the shape differs a little.
        assert abs(left - 2.0 ** -(ratio**2))[known].max() < 0.02
        assert left[ratio < 0.3].min(initial=1) > 0.93 and left[ratio > 3].max(initial=0) < 0.01


def test_the_frequency_that_is_halved_is_within_a_percent() -> None:
    """Found for each grating by the eccentricity at which half of it is left, on a row through the fixation."""
    side, degrees, contrast = 256, 90.0, 1 / 16
    cutoffs = at_each_pixel(side, degrees, contrast, 0.0, 0.5 / side)[0]
    halved = []
    for half_waves in range(40, side, 8):
        wave = cosine(side, half_waves)
        canvas = torch.from_numpy(wave).expand(1, 3, side, side)
        found = smooth_fovea(canvas, degrees=degrees, contrast=contrast, x=0.0, y=0.5 / side)[0, 0, 0].numpy()
        crests = abs(wave) > 0.1
        left = (found[crests] / wave[crests])[::-1]  # rising towards the fixation
        if left[0] < 0.5 < left[-1]:
            halved.append(np.interp(0.5, left, cutoffs[crests][::-1]) / (half_waves / (2 * side)))
    assert len(halved) > 10 and min(halved) > 1 - 1e-3 and max(halved) < 1.0105


def test_the_fovea_is_left_as_it_is_and_the_rest_is_not() -> None:
    side, degrees = 64, 20.0
    canvases = random_canvases(side)
    for x, y in FIXATIONS:
        changed = (fovea(canvases, degrees=degrees, contrast=0.03, x=x, y=y) != canvases).any(dim=1).any(dim=0).numpy()
        resolved = at_each_pixel(side, degrees, 0.03, x, y) >= 1  # twice what the canvas can hold
        assert 20 < resolved.sum() < side**2 / 2
        assert not changed[resolved].any() and changed[~resolved].mean() > 0.8


def test_points_spread_with_eccentricity() -> None:
    """The standard deviation of a Gaussian that halves f is sqrt(2 ln 2) / (2 pi f)."""
    side, degrees, contrast = 96, 40.0, 0.02
    cutoffs = at_each_pixel(side, degrees, contrast, 0.0, 0.5)[side // 2]
    widths = []
    for place in (20, 40, 60, 80):
        canvas = torch.zeros(1, 3, side, side, dtype=torch.float64)
        canvas[..., side // 2, place] = 1
        spread = smooth_fovea(canvas, degrees=degrees, contrast=contrast, x=0.0, y=0.5)[0, 0].sum(dim=1).numpy()
        offsets = np.arange(side) - side // 2
        widths.append(math.sqrt((spread * offsets**2).sum() / spread.sum()))
        # Upright, where eccentricity hardly changes; a mixture of two Gaussians is a little wider than the one between.
        assert widths[-1] == pytest.approx(math.sqrt(2 * math.log(2)) / (2 * math.pi * cutoffs[place]), rel=0.06)
    assert widths == sorted(widths) and widths[-1] > 2 * widths[0]


@pytest.mark.parametrize("name", ["fovea", "fovea-saccades", "retina"])
def test_one_colour_stays_as_it_is(name: str) -> None:
    for levels in ((0, 0, 0), (255, 255, 255), (1, 128, 254), (7, 7, 200)):
        canvases = one_colour(24, *levels).byte()
        assert torch.equal(DEFENSES[name](canvases, draws(1)), canvases)


def test_saccades_are_foveas_where_people_look() -> None:
    canvases = random_canvases(24, count=6)
    found = fovea_saccades(canvases, draws(6), degrees=30.0, contrast=0.02)
    across, down = draws(6).normal((2,), "fixation").double().T
    x = (0.5 + across * math.sqrt(0.22) / 2).clamp(0, 1)
    y = (0.5 + down * math.sqrt(0.45 * 0.22) / 2).clamp(0, 1)
    for number in range(6):
        place = {"x": float(x[number]), "y": float(y[number])}
        expected = fovea(canvases[number : number + 1], degrees=30.0, contrast=0.02, **place)
        assert (found[number].int() - expected[0].int()).abs().max() <= 1


# Retina --------------------------------------------------------------------------------------------------------------

RETINAL = {"degrees": 0.9, "side": 64}  # radii of 2.1 and 14.3 pixels


def gaussian(values: np.ndarray, radius: float) -> np.ndarray:
    """A Gaussian that falls to 1/e at `radius` degrees, over the last two axes, mirrored at the border."""
    sigma = radius * RETINAL["side"] / RETINAL["degrees"] / math.sqrt(2)
    return scipy.ndimage.gaussian_filter(values, sigma, axes=(-2, -1), mode="reflect", truncate=8)


@pytest.mark.parametrize("semisaturation", [0.5, 20.0, 300.0])
def test_retina_is_scipys_difference_of_gaussians_normalised(semisaturation: float) -> None:
    canvases = random_canvases(64).double()
    canvases[..., 32:] /= 4
    found = smooth_retina(canvases, degrees=0.9, semisaturation=semisaturation).numpy()
    values = canvases.numpy()
    response = gaussian(values, 0.03) - 0.55 * gaussian(values, 6.7 * 0.03)
    pool = gaussian(abs(response).mean(axis=1, keepdims=True), 6.7 * 0.03)
    normalised = response / (semisaturation + pool)
    # What was drawn has the responses that were asked for: the surround of something already blurred by the centre.
    drawn = found - 0.55 * gaussian(found, 0.03 * math.sqrt(6.7**2 - 1))
    assert np.allclose(drawn, normalised * (semisaturation + pool.mean(axis=(2, 3), keepdims=True)), rtol=0, atol=0.01)


def test_retina_without_division_is_the_centre() -> None:
    canvases = random_canvases(64).double()
    found = smooth_retina(canvases, degrees=0.9, semisaturation=1e9).numpy()
    assert np.allclose(found, gaussian(canvases.numpy(), 0.03), rtol=0, atol=0.01)


def test_retina_evens_out_contrast_and_brightness() -> None:
    """Left dark and flat, right bright and strong; a quarter of the way in, to be clear of border and middle."""
    generator = np.random.default_rng(0)
    texture = generator.normal(size=(1, 1, 96, 96)).repeat(3, axis=1)
    left = np.arange(96) < 48
    canvases = torch.from_numpy(np.where(left, 50 + 4 * texture, 180 + 40 * texture))
    unevenness = []
    for semisaturation in (1e9, 100.0, 10.0, 1.0):
        seen = smooth_retina(canvases, degrees=3.0, semisaturation=semisaturation)
        dark, bright = seen[..., 12:36], seen[..., 60:84]
        unevenness.append((float(bright.std() / dark.std()), float(bright.mean() - dark.mean())))
    contrasts, steps = zip(*unevenness, strict=True)
    assert list(contrasts) == sorted(contrasts, reverse=True) and contrasts[-1] < contrasts[0] / 2
    assert list(steps) == sorted(steps, reverse=True) and steps[-1] < steps[0] / 2


@pytest.mark.parametrize("turn", [lambda c: c.flip(-1), lambda c: c.flip(-2), lambda c: c.mT], ids=["x", "y", "xy"])
def test_retina_and_a_central_fovea_have_no_direction(turn: Callable[[Tensor], Tensor]) -> None:
    canvases = random_canvases(24)
    for defended in (
        lambda c: retina(c, degrees=2.0, semisaturation=10.0),
        lambda c: fovea(c, degrees=30.0, contrast=0.02, x=0.5, y=0.5),
    ):
        assert torch.equal(defended(turn(canvases)), turn(defended(canvases)))


# V1 ------------------------------------------------------------------------------------------------------------------

PYRAMIDS = [(16, 3, 4), (16, 1, 1), (21, 2, 3), (33, 4, 5), (64, 4, 16), (4, 1, 2)]


def full_plane(side: int, filters: Tensor) -> np.ndarray:
    """What filters pass, on all frequencies instead of half of them: (filters, side, side)."""
    impulse = torch.fft.irfft2(filters, s=(side, side)).numpy()
    return np.fft.fft2(impulse)


@pytest.mark.parametrize(("side", "scales", "orientations"), PYRAMIDS)
def test_the_pyramid_loses_nothing(side: int, scales: int, orientations: int) -> None:
    filters = steerable_filters(side, scales, orientations)
    assert filters.shape == (2 + scales * orientations, side, side // 2 + 1)
    assert np.allclose((abs(filters.numpy()) ** 2).sum(axis=0), 1, rtol=0, atol=1e-12)
    # As filters in space they are real, and so nothing is lost between the two halves of the plane either.
    assert np.allclose((abs(full_plane(side, filters)) ** 2).sum(axis=0), 1, rtol=0, atol=1e-12)
    assert filters[-1, 0, 0] == 1  # the mean passes unchanged


@pytest.mark.parametrize(("side", "scales", "orientations"), PYRAMIDS)
def test_the_filters_are_portillas_and_simoncellis(side: int, scales: int, orientations: int) -> None:
    """Their formulas, in radians per sample and with the gain of 2 that their subsampling needs."""

    def low(r: float) -> float:
        return (
            2.0
            if r <= math.pi / 4
            else 0.0
            if r >= math.pi / 2
            else 2 * math.cos(math.pi / 2 * math.log2(4 * r / math.pi))
        )

    def high(r: float) -> float:
        return (
            0.0 if r <= math.pi / 4 else 1.0 if r >= math.pi / 2 else math.cos(math.pi / 2 * math.log2(2 * r / math.pi))
        )

    def angular(theta: float, k: int) -> float:
        order = orientations - 1
        alpha = 2**order * math.factorial(order) / math.sqrt(orientations * math.factorial(2 * order))
        return alpha * abs(math.cos(theta - math.pi * k / orientations)) ** order

    found = abs(steerable_filters(side, scales, orientations).numpy())
    for down in range(-(side // 2) + 1, side // 2):
        for across in range(1, side // 2):
            r, theta = 2 * math.pi * math.hypot(down, across) / side, math.atan2(down, across)
            passed, expected = low(r / 2) / 2, [high(r / 2)]
            for _ in range(scales):
                expected += [passed * high(r) * angular(theta, k) for k in range(orientations)]
                passed *= low(r) / 2
                r *= 2
            assert np.allclose(found[:, down, across], [*expected, passed], rtol=0, atol=1e-12)


def test_a_grating_excites_the_cells_of_its_orientation_and_scale() -> None:
    """Waves at the peak of each scale, 1/4, 1/8 and 1/16 cycles/pixel, across and down."""
    side, scales, orientations = 64, 3, 4
    filters = steerable_filters(side, scales, orientations)
    for scale in range(scales):
        wave = torch.cos(2 * torch.pi * torch.arange(side).double() / 4 / 2**scale)
        for canvas, orientation in ((wave.expand(side, side), 0), (wave[:, None].expand(side, side), 2)):
            responses = torch.fft.irfft2(torch.fft.rfft2(canvas) * filters, s=(side, side))
            energy = (responses**2).mean(dim=(1, 2))
            others = torch.ones(len(filters), dtype=torch.bool)
            # Of 4 orientations, those 45 degrees away get a (cos² 45°)³ of what the best gets: 1/8, and two of them.
            best = 1 + scale * orientations + orientation
            beside = [1 + scale * orientations + k for k in range(orientations) if abs(k - orientation) in (1, 3)]
            others[[best, *beside]] = False
            assert energy[best] == pytest.approx(0.5 * 0.8, rel=1e-9)
            assert energy[beside].tolist() == pytest.approx([0.05, 0.05], rel=1e-9)
            assert energy[others].max() < 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 40), st.data())
def test_without_noise_the_canvas_comes_back(side: int, data: st.DataObject) -> None:
    scales = data.draw(st.integers(1, int(math.log2(side)) - 1))
    orientations = data.draw(st.integers(1, 16))
    canvases = random_canvases(side)
    found = smooth_v1(canvases.double(), draws(2), scales=scales, orientations=orientations, noise=1e-18)
    assert (found - canvases).abs().max() < 1e-6
    assert torch.equal(v1(canvases, draws(2), scales=scales, orientations=orientations, noise=1e-6), canvases)


def expected_variance(canvas: np.ndarray, scales: int, orientations: int, noise: float) -> np.ndarray:
    """Of each pixel: independent noise in each band adds up through the squares of the band's impulse response."""
    filters = full_plane(len(canvas), steerable_filters(len(canvas), scales, orientations)[:-1])
    total = np.zeros_like(canvas)
    for passed in filters:
        responses = np.fft.ifft2(np.fft.fft2(canvas) * passed).real
        squares = np.fft.fft2(np.fft.ifft2(passed.conj()).real ** 2)
        total += np.fft.ifft2(np.fft.fft2(noise * abs(responses) + 0.14 * noise**2) * squares).real
    return total


@pytest.mark.parametrize("noise", [0.5, 8.0])
@pytest.mark.parametrize("contrast", [0.0, 20.0, 100.0])
def test_the_variance_of_the_noise_is_proportional_to_the_response(noise: float, contrast: float) -> None:
    """Over 500 images of the same grating in a window; three channels make 1500 samples of each pixel."""
    side, scales, orientations = 16, 2, 3
    row = np.arange(side)
    canvas = 128 + contrast * np.outer(np.hanning(side), np.cos(2 * math.pi * row / 4) * (row < 8))
    canvases = torch.from_numpy(canvas).expand(500, 3, side, side)
    found = smooth_v1(canvases, draws(500), scales=scales, orientations=orientations, noise=noise) - canvases
    variance = (found**2).mean(dim=(0, 1)).numpy()
    expected = expected_variance(canvas, scales, orientations, noise)
    assert np.allclose(variance / expected, 1, rtol=0, atol=0.2)  # 5 standard errors
    assert (variance / expected).mean() == pytest.approx(1, abs=0.02)
    # No bias, and the mean brightness of each image is kept.
    assert abs(found.mean(dim=(0, 1)).numpy() / np.sqrt(expected / 1500)).max() < 5
    assert found.mean(dim=(2, 3)).abs().max() < 1e-9
    if contrast:
        assert expected.max() > 2 * expected.min()


def test_noise_differs_between_channels_and_cells() -> None:
    found = smooth_v1(one_colour(32, 128, 128, 128).double(), draws(1), scales=2, orientations=4, noise=8.0) - 128
    shares = np.corrcoef(found[0].flatten(1).numpy())
    assert abs(shares[np.triu_indices(3, 1)]).max() < 0.2

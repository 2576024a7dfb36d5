"""Deterministic filters: NumPy, SciPy, scikit-image and plain loops as oracles, and pictures whose answer is known."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import skimage.filters
import skimage.restoration
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.defenses import pictures, same_but_for_ties, waves
from transforms.defenses.filters import bilateral, blur, median, nlm, tvm
from transforms.defenses.fourier import lowpass, lowpass_butterworth, lowpass_dct, lowpass_gaussian

SIDES = (1, 2, 3, 16, 21, 40)


# Low-pass ------------------------------------------------------------------------------------------------------------


def fourier(canvases: Tensor, cutoff: Fraction) -> np.ndarray:
    """The full complex spectrum, masked in rational arithmetic: index k of n stands for min(k, n - k) / n cycles."""
    side = canvases.shape[-1]
    keep = np.array([Fraction(min(k, side - k), side) <= cutoff / 2 for k in range(side)])
    spectrum = np.fft.fft2(canvases.numpy().astype(float)) * np.outer(keep, keep)
    back = np.fft.ifft2(spectrum)
    assert abs(back.imag).max() < 1e-9
    return back.real


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SIDES), st.integers(1, 200).map(lambda n: Fraction(n, 200)), st.integers(0, 2**32 - 1))
def test_lowpass_is_numpys(side: int, cutoff: Fraction, seed: int) -> None:
    canvases = pictures(side, seed=seed)
    same_but_for_ties(lowpass(canvases, cutoff=float(cutoff)), fourier(canvases, cutoff))


@pytest.mark.parametrize("side", [180, 224, 240, 256, 299])
def test_lowpass_keeps_frequencies_on_the_edge(side: int) -> None:
    """0.7 * 180 / 2 is 63 and belongs to the band, though neither 0.7 nor 63 / 180 is exact in binary."""
    for percent in range(5, 101, 5):
        cutoff = Fraction(percent, 100)
        highest = int(cutoff * side / 2)
        rows = torch.arange(side)
        for frequency, kept in ((highest, True), (highest + 1, False)):
            if frequency > side // 2:
                continue
            wave = (100 * torch.cos(2 * torch.pi * frequency * rows.double() / side)).round() + 128
            canvas = wave.to(torch.uint8).expand(1, 3, side, side)
            spectrum = torch.fft.fft(lowpass(canvas, cutoff=percent / 100)[0, 0, 0].double()).abs() / side
            before = torch.fft.fft(wave).abs() / side
            left = float(spectrum[frequency] / before[frequency])
            assert left > 0.95 if kept else left < 0.05


@pytest.mark.parametrize("side", [*SIDES, 224, 225])
def test_a_cutoff_of_1_changes_nothing(side: int) -> None:
    canvases = torch.cat([pictures(side), torch.full((1, 3, side, side), 255), torch.zeros(1, 3, side, side)]).byte()
    assert torch.equal(lowpass(canvases, cutoff=1), canvases)
    assert torch.equal(lowpass(canvases, cutoff=1.0), canvases)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_wave_stays_below_and_goes_above_the_cutoff(axis: int) -> None:
    side, frequency = 32, 6  # 6 cycles of at most 16: kept from 6 / 16 = 0.375 on
    wave = 128 + 100 * torch.cos(2 * torch.pi * frequency * torch.arange(side).double() / side)
    canvas = wave.round().byte().view((1, 1, side, 1) if axis == 2 else (1, 1, 1, side)).expand(2, 3, side, side)
    assert (lowpass(canvas, cutoff=0.38).int() - canvas.int()).abs().max() <= 1
    assert torch.equal(lowpass(canvas, cutoff=0.37), torch.full_like(canvas, 128))


def test_the_mean_alone() -> None:
    """With the smallest cutoff each plane becomes its mean, half a level rounded to the even one."""
    canvases = torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8).flatten(1, 2)[:, :3]
    canvases[0, 0] = 7
    canvases[0, 1, :, ::2] = 1  # mean 0.5
    canvases[0, 2, ::2] = 3  # mean 1.5
    assert lowpass(canvases, cutoff=0.01).flatten(2).unique(dim=2).flatten().tolist() == [7, 0, 2]


@pytest.mark.parametrize("side", [28, 56, 210, 224])
def test_exact_halves_do_not_hang_on_the_last_bit(side: int) -> None:
    """A pattern repeated every two pixels leaves its mean, and half a level rounds to the even one all over."""
    tiles = np.random.default_rng(0).integers(0, 256, (12, 3, 2, 2), dtype=np.uint8)
    means = tiles.mean(axis=(2, 3), keepdims=True)  # of four integers: exact
    assert (means % 1 == 0.5).any()
    canvases = torch.from_numpy(np.tile(tiles, (1, 1, side // 2, side // 2)))
    for cutoff in (0.01, 0.3, 0.9):
        assert np.array_equal(lowpass(canvases, cutoff=cutoff).numpy(), np.broadcast_to(np.rint(means), canvases.shape))


# Other low-pass filters ----------------------------------------------------------------------------------------------

cutoffs = st.integers(1, 200).map(lambda n: n / 200)
any_side = st.sampled_from(SIDES)


@settings(max_examples=60, deadline=None)
@given(any_side, cutoffs, st.integers(0, 2**32 - 1))
def test_the_gaussian_lowpass_is_scipys(side: int, cutoff: float, seed: int) -> None:
    """In space a Gaussian of standard deviation 1 / (2 pi c) pixels, c in cycles per pixel."""
    canvases = pictures(side, seed=seed)
    spectrum = np.fft.fft2(canvases.numpy().astype(float))
    sigma = 1 / (np.pi * cutoff)
    passed = [scipy.ndimage.fourier_gaussian(plane, sigma) for plane in spectrum.reshape(-1, side, side)]
    same_but_for_ties(lowpass_gaussian(canvases, cutoff=cutoff), np.fft.ifft2(passed).real.reshape(canvases.shape))


@settings(max_examples=60, deadline=None)
@given(any_side, cutoffs, st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_butterworth_lowpass_is_scikit_images(side: int, cutoff: float, order: int, seed: int) -> None:
    canvases = pictures(side, seed=seed)
    exact = [
        skimage.filters.butterworth(plane.astype(float), cutoff / 2, high_pass=False, order=order)
        for plane in canvases.numpy().reshape(-1, side, side)
    ]
    same_but_for_ties(lowpass_butterworth(canvases, cutoff=cutoff, order=order), np.reshape(exact, canvases.shape))


@settings(max_examples=60, deadline=None)
@given(any_side, st.integers(1, 200).map(lambda n: Fraction(n, 200)), st.integers(0, 2**32 - 1))
def test_the_cosine_lowpass_is_scipys(side: int, cutoff: Fraction, seed: int) -> None:
    canvases = pictures(side, seed=seed)
    coefficients = scipy.fft.dctn(canvases.numpy().astype(float), axes=(2, 3), norm="ortho")
    kept = -(-(cutoff * side) // 1)  # rounded up
    coefficients[:, :, int(kept) :] = 0
    coefficients[:, :, :, int(kept) :] = 0
    exact = scipy.fft.idctn(coefficients, axes=(2, 3), norm="ortho")
    same_but_for_ties(lowpass_dct(canvases, cutoff=float(cutoff)), exact)


@pytest.mark.parametrize("side", [*SIDES, 224, 225])
def test_all_cosines_change_nothing(side: int) -> None:
    canvases = pictures(side)
    assert torch.equal(lowpass_dct(canvases, cutoff=1.0), canvases)


def test_cosines_do_not_join_opposite_borders() -> None:
    """A ramp from black to white stays dark on the left; Fourier filters see it jump there."""
    ramp = torch.linspace(0, 255, 64).round().byte().expand(1, 3, 64, 64)
    assert lowpass_dct(ramp, cutoff=0.2)[..., 0].max() < 10
    assert lowpass(ramp, cutoff=0.2)[..., 0].min() > 80


# Blur ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.124, 0.125, 0.3, 0.5, 0.62, 0.8, 1, 1.1, 2, 3.3, 5.12])
@pytest.mark.parametrize("side", [21, 40])
def test_blur_is_scipys(sigma: float, side: int) -> None:
    """Their kernel is cut at int(4 * sigma + 0.5) pixels, and their "mirror" repeats no border pixel."""
    canvases = pictures(side)
    exact = scipy.ndimage.gaussian_filter(
        canvases.numpy().astype(float), (0, 0, sigma, sigma), mode="mirror", truncate=4
    )
    same_but_for_ties(blur(canvases, sigma=sigma), exact)


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_blur_spreads_a_point_and_keeps_a_plain(sigma: float) -> None:
    canvas = torch.zeros(1, 3, 41, 41, dtype=torch.uint8)
    assert torch.equal(blur(canvas + 77, sigma=sigma), canvas + 77)
    canvas[0, 1, 20, 20] = 255
    blurred = blur(canvas, sigma=sigma)
    assert blurred[0, 0].max() == 0 and blurred[0, 2].max() == 0  # no colour runs into another
    assert torch.equal(blurred, blurred.transpose(2, 3)) and torch.equal(blurred, blurred.flip(2))
    offsets = np.arange(-20, 21)
    bell = np.exp(-(offsets**2) / (2 * sigma**2))
    peak = 255 / bell.sum() ** 2
    assert blurred[0, 1, 20, 20] == pytest.approx(peak, abs=0.6)
    assert blurred[0, 1, 20, 21] == pytest.approx(peak * bell[21], abs=0.6)


# Median, bilateral, non-local means ----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [3, 5, 7, 21])
@pytest.mark.parametrize("side", [21, 40])
def test_median_is_scipys(window: int, side: int) -> None:
    canvases = pictures(side)
    exact = scipy.ndimage.median_filter(canvases.numpy(), (1, 1, window, window), mode="nearest")
    assert np.array_equal(median(canvases, window=window).numpy(), exact)


def test_median_removes_a_speck_and_keeps_an_edge() -> None:
    canvas = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    canvas[..., 4:] = 200
    specked = canvas.clone()
    specked[0, 1, 4, 2] = 255
    assert torch.equal(median(specked, window=3), canvas)


def weighted_mean(picture: np.ndarray, sigma_color: float, sigma_space: float) -> np.ndarray:
    """Of (S, S, 3) levels: the bilateral filter, neighbour by neighbour."""
    radius, side = max(round(1.5 * sigma_space), 1), len(picture)
    padded = np.pad(picture, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    total, weights = np.zeros_like(picture), np.zeros((side, side, 1))
    for y, x in np.argwhere(np.ones((2 * radius + 1,) * 2)) - radius:
        if y * y + x * x <= radius**2:
            neighbour = padded[radius + y :, radius + x :][:side, :side]
            unlike = abs(neighbour - picture).sum(axis=2, keepdims=True) / 255
            weight = np.exp(-0.5 * (y * y + x * x) / sigma_space**2 - 0.5 * (unlike / sigma_color) ** 2)
            total, weights = total + weight * neighbour, weights + weight
    return total / weights


@pytest.mark.parametrize(("sigma_color", "sigma_space"), [(0.1, 2.0), (0.3, 0.5), (0.5, 3.3), (0.04, 1.0)])
def test_bilateral_is_its_formula(sigma_color: float, sigma_space: float) -> None:
    """OpenCV computes in single precision: a thousandth of a level may decide how a value is rounded."""
    for canvases in (pictures(24), waves(24)):
        found = bilateral(canvases, sigma_color=sigma_color, sigma_space=sigma_space).numpy()
        for picture, smoothed in zip(canvases.numpy(), found, strict=True):
            exact = weighted_mean(picture.transpose(1, 2, 0).astype(float), sigma_color, sigma_space)
            assert abs(smoothed.transpose(1, 2, 0) - exact).max() < 0.501


def test_bilateral_blurs_within_edges_only() -> None:
    canvas = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    canvas[..., 8:] = 200
    canvas[:, :, ::2] += 8
    smoothed = bilateral(canvas, sigma_color=0.1, sigma_space=3.0)
    assert smoothed[..., :8].max() <= 8 and smoothed[..., 8:].min() >= 200  # nothing crosses the edge
    assert (smoothed[:, :, 4:12, :8].int() - 4).abs().max() <= 1  # and the stripes are gone


def non_local(planes: np.ndarray, search: int, patch: int, strength: float) -> np.ndarray:
    """Of (S, S, channels) levels: each pixel a mean of those around it, weighed by how alike their patches are."""
    side, channels = planes.shape[0], planes.shape[2]
    reach, half = search // 2, patch // 2
    margin = reach + half
    padded = np.pad(planes, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    total, weights = np.zeros_like(planes), np.zeros((side, side, 1))
    for y, x in np.argwhere(np.ones((search, search))) - reach:
        moved = np.roll(padded, (-y, -x), axis=(0, 1))
        unlike = ((moved - padded) ** 2).sum(axis=2)
        unlike = scipy.ndimage.uniform_filter(unlike, patch)[margin:-margin, margin:-margin, None]
        weight = np.exp(-unlike / (channels * strength**2))
        total, weights = total + weight * moved[margin:-margin, margin:-margin], weights + weight
    return total / weights


@pytest.mark.parametrize(("search", "patch", "strength"), [(11, 3, 4.0), (7, 5, 12.0)])
def test_nlm_is_its_formula_in_cielab(search: int, patch: int, strength: float) -> None:
    """OpenCV's weights are whole numbers, and its CIELAB has 8 bits: colours come back within a few levels."""
    grain = np.random.default_rng(0).integers(-6, 7, (1, 3, 24, 24))
    canvases = torch.from_numpy((waves(24, count=1).numpy() + grain).clip(0, 255).astype(np.uint8))
    lab = cv2.cvtColor(np.ascontiguousarray(canvases[0].permute(1, 2, 0).numpy()), cv2.COLOR_LRGB2Lab)
    lightness = non_local(lab[..., :1].astype(float), search, patch, strength)
    colour = non_local(lab[..., 1:].astype(float), search, patch, strength)
    exact = cv2.cvtColor(np.rint(np.concatenate([lightness, colour], axis=2)).astype(np.uint8), cv2.COLOR_Lab2LRGB)
    found = nlm(canvases, search=search, patch=patch, strength=strength)[0].permute(1, 2, 0).numpy()
    off = abs(found.astype(int) - exact)
    assert off.max() <= 4 and off.mean() < 0.7
    assert abs(found.astype(int) - canvases[0].permute(1, 2, 0).numpy()).mean() > 2 * off.mean()


# Total variation -----------------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.parametrize(("weight", "mean", "most"), [(0.02, 0.01, 1), (0.1, 0.05, 1), (0.5, 0.5, 3)])
def test_tvm_is_scikit_images(weight: float, mean: float, most: int) -> None:
    """Theirs takes thousands of steps."""
    grain = np.random.default_rng(0).integers(-20, 21, (1, 3, 32, 32))
    canvases = torch.from_numpy((waves(32, count=1).numpy() + grain).clip(0, 255).astype(np.uint8))
    exact = skimage.restoration.denoise_tv_chambolle(
        canvases[0].numpy() / 255, weight, eps=0, max_num_iter=20000, channel_axis=0
    )
    off = abs(tvm(canvases, weight=weight)[0].numpy() - np.rint(exact * 255))
    assert off.mean() < mean and off.max() <= most


def test_tvm_of_a_step_is_a_lower_step() -> None:
    """Each half moves towards the other by weight / its width, in [0, 1] pixels."""
    canvas = torch.full((1, 3, 40, 40), 50, dtype=torch.uint8)
    canvas[..., 20:] = 200
    expected = canvas + torch.where(canvas == 50, 1, -1) * 0.5 / 20 * 255
    assert (tvm(canvas, weight=0.5) - expected).abs().max() < 1


def test_tvm_keeps_the_mean_and_flattens_in_the_end() -> None:
    canvas = pictures(16, count=1)
    smoothed = tvm(canvas, weight=1.0)
    means = canvas.double().mean(dim=(2, 3), keepdim=True)
    assert (smoothed - means).abs().max() < 1

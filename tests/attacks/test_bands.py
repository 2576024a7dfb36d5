"""Bands: NumPy's FFT and SciPy's DCT as the oracles."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft
from torch import Tensor

from tests.support.attacks import (
    EPS,
    SIDE,
    batch_of,
    bent,
    differences,
    found_by,
    iterate,
    make,
    some_canvases,
    surrogates,
)
from transforms.attacks.balls import BALLS, LinfBall
from transforms.attacks.parts.bands import BANDS, Band, DctBand, FourierBand, leaked
from transforms.attacks.recipes.names import recipe
from transforms.defenses.fourier import smooth_lowpass
from transforms.errors import InputError
from transforms.spectrum import cosines

seeds = st.integers(0, 2**32 - 1)
cutoffs = st.floats(0.05, 0.95)
sides = st.integers(3, 17)
bases = pytest.mark.parametrize("basis", list(BANDS))


def fourier_by_hand(pictures: np.ndarray, cutoff: float) -> np.ndarray:
    """All frequencies of the full spectrum whose distance from zero, per axis, is within cutoff / 2."""
    frequency = abs(np.fft.fftfreq(pictures.shape[-1]))
    low = frequency <= cutoff / 2 + 1e-12
    return np.fft.ifft2(np.fft.fft2(pictures) * (low[:, None] & low)).real


def dct_by_hand(pictures: np.ndarray, cutoff: float) -> np.ndarray:
    side = pictures.shape[-1]
    spectrum = fft.dctn(pictures, axes=(-2, -1), norm="ortho")
    kept = math.ceil(cutoff * side - 1e-9)
    spectrum[..., kept:, :] = 0
    spectrum[..., :, kept:] = 0
    return fft.idctn(spectrum, axes=(-2, -1), norm="ortho")


BY_HAND = {"fourier": fourier_by_hand, "dct": dct_by_hand}


@bases
@settings(max_examples=60, deadline=None)
@given(seed=seeds, cutoff=cutoffs, side=sides)
def test_projection_is_numpys_and_scipys(basis: str, seed: int, cutoff: float, side: int) -> None:
    pictures = np.random.default_rng(seed).normal(size=(2, 3, side, side))
    found = BANDS[basis](cutoff).project(torch.from_numpy(pictures)).numpy()
    assert np.allclose(found, BY_HAND[basis](pictures, cutoff), atol=1e-10)


@bases
@settings(max_examples=30, deadline=None)
@given(seed=seeds, cutoff=cutoffs, side=sides)
def test_projection_is_orthogonal(basis: str, seed: int, cutoff: float, side: int) -> None:
    """Twice is once, and what it takes away is at right angles to what it leaves: the nearest point of a subspace."""
    band = BANDS[basis](cutoff)
    picture, other = (torch.from_numpy(each) for each in np.random.default_rng(seed).normal(size=(2, 1, 3, side, side)))
    inside = band.project(picture)
    assert torch.allclose(band.project(inside), inside, atol=1e-10)
    assert abs(((picture - inside) * band.project(other)).sum()) < 1e-9


def test_the_fourier_band_is_what_the_lowpass_defence_lets_pass() -> None:
    picture = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 20, 20)))
    for cutoff in (0.1, 0.35, 0.7, 0.9):
        assert torch.equal(FourierBand(cutoff).project(picture), smooth_lowpass(picture, cutoff=cutoff))


def test_cosines_are_scipys() -> None:
    for side in (1, 2, 7, 32):
        assert np.allclose(cosines(side).numpy(), fft.dct(np.eye(side), axis=0, norm="ortho"), atol=1e-12)
        assert np.allclose(cosines(side) @ cosines(side).T, np.eye(side), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, cutoff=cutoffs, side=sides)
def test_dct_signs(seed: int, cutoff: float, side: int) -> None:
    """Coefficients are +1 or -1 as the gradient's in the band, 0 outside."""
    gradient = np.random.default_rng(seed).normal(size=(2, 3, side, side))
    found = fft.dctn(DctBand(cutoff).signs(torch.from_numpy(gradient)).numpy(), axes=(-2, -1), norm="ortho")
    expected = np.sign(fft.dctn(gradient, axes=(-2, -1), norm="ortho"))
    kept = math.ceil(cutoff * side - 1e-9)
    expected[..., kept:, :] = expected[..., :, kept:] = 0
    assert np.allclose(found, expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, cutoff=cutoffs, side=sides)
def test_fourier_signs(seed: int, cutoff: float, side: int) -> None:
    """Real and imaginary parts alike; a real picture's own mirror frequencies have no imaginary part."""
    gradient = np.random.default_rng(seed).normal(size=(2, 3, side, side))
    found = np.fft.fft2(FourierBand(cutoff).signs(torch.from_numpy(gradient)).numpy())
    spectrum = np.fft.fft2(gradient)
    imaginary = np.where(abs(spectrum.imag) < 1e-9, 0, spectrum.imag)
    frequency = abs(np.fft.fftfreq(side)) <= cutoff / 2 + 1e-12
    expected = (np.sign(spectrum.real) + 1j * np.sign(imaginary)) * (frequency[:, None] & frequency)
    assert np.allclose(found, expected, atol=1e-9)


def leak_by_hand(basis: str, cutoff: float, change: np.ndarray) -> float:
    """Energy outside the band over energy, of one image (3, S, S)."""
    outside = change - BY_HAND[basis](change, cutoff)
    return float((outside**2).sum() / (change**2).sum())


@bases
@settings(max_examples=40, deadline=None)
@given(seed=seeds, cutoff=cutoffs)
def test_leak(basis: str, seed: int, cutoff: float) -> None:
    changes = np.random.default_rng(seed).integers(-8, 9, (3, 3, 10, 10))
    changes[1] = 0
    found = leaked(BANDS[basis](cutoff), torch.from_numpy(changes)).tolist()
    assert found[1] == 0
    for one in (0, 2):
        assert found[one] == pytest.approx(leak_by_hand(basis, cutoff, changes[one].astype(float)), abs=1e-9)


@bases
def test_nothing_leaks_from_inside_and_all_from_outside(basis: str) -> None:
    band, picture = BANDS[basis](0.4), torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 16, 16)))
    inside = band.project(picture)
    assert leaked(band, inside).tolist() == pytest.approx([0, 0], abs=1e-12)
    assert leaked(band, picture - inside).tolist() == pytest.approx([1, 1])
    assert leaked(band, inside.float()).max() < 1e-9


@bases
@pytest.mark.parametrize("norm", list(BALLS))
@settings(max_examples=8, deadline=None)
@given(
    seed=seeds,
    cutoff=st.floats(0.2, 0.8),
    step_in=st.sampled_from(["pixels", "coefficients"]),
    name=st.sampled_from(["mi-lf", "bim-lf", "pgd-lf", "ni-lf", "vmi-lf", "mi-di-lf"]),
)
def test_an_attack_stays_in_its_band(norm: str, basis: str, seed: int, cutoff: float, step_in: str, name: str) -> None:
    """Where ball and box do not cut in: grey canvases and a budget that is not reached. Rounding leaks half a
    level per value at most."""
    grey = torch.full((2, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    batch = batch_of(grey, [0, 1], seed=seed)
    alpha = 0.8 if (norm, step_in) == ("l1", "pixels") else EPS[norm] / 2  # where four values take the whole step
    # Not from anywhere, where ball and box would cut in.
    few: dict[str, Any] = {"steps": 2, "alpha": alpha, "neighbors": 2, "random_start": False}
    chosen = {key: few[key] for key in few if key in recipe(name).parameters}
    chosen |= {"basis": basis, "cutoff": cutoff, "step_in": step_in}
    ball = BALLS[norm](EPS[norm] * 1000)
    models = surrogates(bent(seed % 1000))
    last = iterate(name, ball, models, batch, **chosen).double() - 128 / 255
    assert last.abs().max() > 0.01
    for one in last.numpy():
        assert leak_by_hand(basis, cutoff, one) < 1e-9
    stored = differences(make(name, norm, ball.eps, **chosen)(models, batch).canvases, grey)
    for one in stored.reshape(2, 3, SIDE, SIDE).astype(float):
        assert leak_by_hand(basis, cutoff, one) * (one**2).sum() <= one.size / 4


@bases
@pytest.mark.parametrize("norm", list(BALLS))
def test_ball_and_box_come_before_the_band(basis: str, norm: str) -> None:
    """Where they cut in, the band is left by as little as alternating projections can do: much less than unbanded."""
    canvases = some_canvases(4)
    batch = batch_of(canvases, [0, 1, 2, 3])
    last = iterate("bim-lf", BALLS[norm](EPS[norm]), surrogates(bent()), batch, basis=basis, cutoff=0.4, steps=5)
    plain = iterate("bim", BALLS[norm](EPS[norm]), surrogates(bent()), batch, steps=5)
    banded, free = (leaked(BANDS[basis](0.4), each.double() - canvases / 255) for each in (last, plain))
    assert (banded < 0.7 * free).all()
    assert last.min() >= 0 and last.max() <= 1


@pytest.mark.parametrize("norm", list(BALLS))
@bases
def test_a_step_in_coefficients_has_the_energy_of_a_step_of_alpha(norm: str, basis: str) -> None:
    """In L∞ of a sign step, in L2 of the length itself, in L1 of a step that changes all values alike."""
    grey = torch.full((1, 3, SIDE, SIDE), 128, dtype=torch.uint8)
    alpha, size = EPS[norm], 3 * SIDE**2
    ball = BALLS[norm](1000 * alpha)
    chosen = {"basis": basis, "step_in": "coefficients", "steps": 1, "alpha": alpha}
    change = iterate("bim-lf", ball, surrogates(bent()), batch_of(grey, [0]), **chosen).double() - 128 / 255
    energy = {"linf": size * alpha**2, "l2": alpha**2, "l1": alpha**2 / size}[norm]
    assert (change**2).sum().item() == pytest.approx(energy, rel=1e-3)


class ByHand:
    """The DCT band with SciPy, as a band that the loop can use."""

    cutoff = 0.4

    def project(self, perturbation: Tensor) -> Tensor:
        return torch.from_numpy(dct_by_hand(perturbation.double().numpy(), 0.4)).float()

    def signs(self, gradient: Tensor) -> Tensor:
        raise AssertionError("not in pixels")


def test_anything_with_a_cutoff_and_the_two_methods_is_a_band() -> None:
    band: Band = ByHand()
    assert leaked(DctBand(0.4), band.project(torch.randn(1, 3, 8, 8))).item() < 1e-9


@pytest.mark.parametrize("cutoff", [0, -0.1, 1, 1.5, math.nan])
@bases
def test_no_band_at_all_is_refused(basis: str, cutoff: float) -> None:
    with pytest.raises(InputError, match=r"^cutoff: .+\Z"):
        BANDS[basis](cutoff)
    with pytest.raises(InputError, match=r"^cutoff: .+\Z"):
        make("lf-fgsm", basis=basis, cutoff=cutoff)


@pytest.mark.parametrize("base", ["pi", "gra", "adam"])
def test_steps_in_coefficients_do_not_silence_a_recipe_of_steps(base: str) -> None:
    with pytest.raises(InputError, match=r"^step_in: .+\Z"):
        make(f"{base}-lf", step_in="coefficients")
    batch = batch_of(some_canvases(2), [0, 1])
    assert (found_by(make(f"{base}-lf", steps=2), surrogates(bent()), batch) != batch.canvases).any()


def test_a_full_budget_is_used() -> None:
    batch = batch_of(some_canvases(4), [0, 1, 2, 3])
    last = iterate("lf-fgsm", LinfBall(EPS["linf"]), surrogates(bent()), batch)
    assert (last - batch.clean).abs().amax(dim=(1, 2, 3)) == pytest.approx([EPS["linf"]] * 4, rel=1e-5)

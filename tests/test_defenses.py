"""Defences: NumPy, SciPy and Pillow as oracles, and pictures whose answer is known."""

import io
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from transforms.defenses.canvas import blur, jpeg, lowpass
from transforms.defenses.grid import DEFENSES, NO_DEFENSE, Defense, grid, parameter_types
from transforms.errors import InputError

SIDES = (1, 2, 3, 16, 21, 40)


def noise(side: int, count: int = 2, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def same_but_for_ties(found: Tensor, exact: np.ndarray) -> None:
    """`found` is `exact`, rounded to 8 bits; where that is half a level, either neighbour will do."""
    assert found.dtype == torch.uint8 and found.shape == exact.shape
    clipped = np.clip(exact, 0, 255)
    assert abs(found.numpy() - clipped).max() <= 0.5 + 1e-5
    clear = abs(clipped - np.floor(clipped) - 0.5) > 1e-5
    assert np.array_equal(found.numpy()[clear], np.rint(clipped)[clear])


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
    canvases = noise(side, seed=seed)
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
    canvases = torch.cat([noise(side), torch.full((1, 3, side, side), 255), torch.zeros(1, 3, side, side)]).byte()
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


# Blur ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.124, 0.125, 0.3, 0.5, 0.62, 0.8, 1, 1.1, 2, 3.3, 5.12])
@pytest.mark.parametrize("side", [21, 40])
def test_blur_is_scipys(sigma: float, side: int) -> None:
    """Their kernel is cut at int(4 * sigma + 0.5) pixels, and their "mirror" repeats no border pixel."""
    canvases = noise(side)
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


# JPEG ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1, 50, 75, 95])
@pytest.mark.parametrize("side", [16, 21])
def test_jpeg_is_pillows(quality: int, side: int) -> None:
    for canvas, found in zip(noise(side), jpeg(noise(side), quality=quality), strict=True):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(canvas.numpy().transpose(1, 2, 0))).save(
            file, format="jpeg", quality=quality, subsampling="4:2:0"
        )
        expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(found.numpy(), expected)


def test_jpeg_keeps_colours_apart() -> None:
    canvas = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    canvas[0, 0] = 200
    canvas[0, 2] = 60
    assert (jpeg(canvas, quality=95).int() - canvas.int()).abs().max() <= 3


# All -----------------------------------------------------------------------------------------------------------------

EVERY = [
    Defense("lowpass", (("cutoff", 0.5),)),
    Defense("lowpass", (("cutoff", 0.77),)),
    Defense("blur", (("sigma", 1.3),)),
    Defense("jpeg", (("quality", 75),)),
]


def test_every_defense_is_tested_below() -> None:
    assert {each.function for each in EVERY} == set(DEFENSES)


@pytest.mark.parametrize("defense", EVERY, ids=lambda each: each.name)
@pytest.mark.parametrize("side", [40, 41])
def test_a_batch_is_its_canvases_one_by_one(defense: Defense, side: int) -> None:
    canvases = noise(side, count=9)
    before = canvases.clone()
    batch = defense(canvases)
    assert batch.dtype == torch.uint8 and batch.shape == canvases.shape and not torch.equal(batch, canvases)
    assert torch.equal(torch.cat([defense(canvases[[item]]) for item in range(9)]), batch)
    assert torch.equal(defense(canvases.flip(0)).flip(0), batch)
    assert torch.equal(canvases, before)


@pytest.mark.parametrize("defense", EVERY, ids=lambda each: each.name)
def test_strides_do_not_matter(defense: Defense) -> None:
    canvases = noise(20)
    strided = canvases.contiguous(memory_format=torch.channels_last)
    assert torch.equal(defense(strided), defense(canvases))


def test_no_defense_is_nothing() -> None:
    canvases = noise(5)
    assert torch.equal(NO_DEFENSE(canvases), canvases)
    assert NO_DEFENSE.name == "none"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda canvas: lowpass(canvas, cutoff=0), "lowpass: cutoff 0"),
        (lambda canvas: lowpass(canvas, cutoff=-0.5), "lowpass: cutoff -0.5"),
        (lambda canvas: lowpass(canvas, cutoff=1.001), "lowpass: cutoff 1.001"),
        (lambda canvas: lowpass(canvas, cutoff=float("nan")), "lowpass: cutoff nan"),
        (lambda canvas: blur(canvas, sigma=0), "blur: sigma 0"),
        (lambda canvas: blur(canvas, sigma=-1), "blur: sigma -1"),
        (lambda canvas: blur(canvas, sigma=4.0), "blur: sigma 4.0"),
        (lambda canvas: blur(canvas, sigma=float("inf")), "blur: sigma inf"),
        (lambda canvas: blur(canvas, sigma=float("nan")), "blur: sigma nan"),
        (lambda canvas: jpeg(canvas, quality=0), "jpeg: quality 0"),
        (lambda canvas: jpeg(canvas, quality=96), "jpeg: quality 96"),
        (Defense("lowpass", (("cutoff", 2),)), "lowpass: cutoff 2"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(call: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call(noise(16))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_the_largest_blur_is_allowed() -> None:
    """A radius of 15 of 16 pixels."""
    assert blur(noise(16), sigma=3.87).shape == (2, 3, 16, 16)


# Grids ---------------------------------------------------------------------------------------------------------------


def test_grid_names_in_the_order_given() -> None:
    assert [each.name for each in grid("lowpass", {"cutoff": [1.0, 0.7, 0.9]})] == [
        "lowpass:cutoff=1.0",
        "lowpass:cutoff=0.7",
        "lowpass:cutoff=0.9",
    ]
    assert [each.name for each in grid("jpeg", {"quality": [75, 50]})] == ["jpeg:quality=75", "jpeg:quality=50"]


def test_grid_of_two_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    def dim(canvases: Tensor, *, by: int, times: float) -> Tensor:
        return canvases - by * int(times)

    monkeypatch.setitem(DEFENSES, "dim", dim)
    made = grid("dim", {"times": [1.0, 2.0], "by": [3, 4]})
    assert [each.name for each in made] == [f"dim:by={by},times={times}" for by in (3, 4) for times in (1.0, 2.0)]
    assert made[3](torch.full((1, 3, 2, 2), 100)).unique().tolist() == [92]
    assert parameter_types("dim") == {"by": int, "times": float}


@pytest.mark.parametrize("defense", EVERY, ids=lambda each: each.name)
def test_a_defense_of_a_grid_does_what_its_function_does(defense: Defense) -> None:
    canvases = noise(20)
    (made,) = grid(defense.function, {key: [value] for key, value in defense.parameters})
    assert made == defense and hash(made) == hash(defense)
    assert torch.equal(made(canvases), DEFENSES[defense.function](canvases, **dict(defense.parameters)))


@pytest.mark.parametrize(
    ("function", "parameters", "message"),
    [
        ("lowpas", {"cutoff": [0.5]}, "unknown defense 'lowpas'; did you mean 'lowpass'?"),
        ("none", {}, "unknown defense 'none'; .*"),
        ("lowpass", {"cutof": [0.5]}, "unknown parameter of lowpass 'cutof'; did you mean 'cutoff'?"),
        ("lowpass", {}, "lowpass: needs a list of values for 'cutoff'"),
        ("lowpass", {"cutoff": []}, "lowpass: cutoff must list different values.*"),
        ("lowpass", {"cutoff": [0.5, 0.5]}, "lowpass: cutoff must list different values.*"),
        ("lowpass", {"cutoff": [0.5], "canvases": [1]}, "unknown parameter of lowpass 'canvases'; .*"),
    ],
)
def test_a_wrong_grid_is_refused_in_one_line(function: str, parameters: dict[str, list[float]], message: str) -> None:
    with pytest.raises(InputError, match=rf"^{message.replace('?', '[?]')}\Z"):
        grid(function, parameters)


def test_parameter_types() -> None:
    assert {name: parameter_types(name) for name in DEFENSES} == {
        "lowpass": {"cutoff": float},
        "blur": {"sigma": float},
        "jpeg": {"quality": int},
    }

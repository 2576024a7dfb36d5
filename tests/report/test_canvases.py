"""Pictures of the page, against torch's defences, SciPy and values worked out by hand."""

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
import torch
from PIL import Image

from pipeline.report.canvases import (
    amplified,
    colour_bar,
    difference_maps,
    energies,
    frequency_rings,
    low_passed,
    palette,
    pixels,
    png_files,
)
from pipeline.report.spectra import spectra
from pipeline.results.tables import open_run
from tests.support.made import made_run
from tests.support.reported import png
from transforms.defenses.fourier import lowpass


def noise(side: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def decoded(address: str) -> Image.Image:
    kind, _, content = address.partition(";base64,")
    assert kind.startswith("data:image/")
    return Image.open(BytesIO(b64decode(content)))


@pytest.mark.parametrize("side", [16, 17, 224])
@pytest.mark.parametrize("cutoff", [1.0, 0.7, 0.5, 0.3])
def test_a_low_passed_picture_is_what_the_defence_makes(side: int, cutoff: float) -> None:
    canvas = noise(side)
    expected = lowpass(torch.from_numpy(canvas).permute(2, 0, 1)[None], cutoff=cutoff)[0].permute(1, 2, 0).numpy()
    assert (low_passed(canvas, cutoff) == expected).all()


def test_difference_maps_show_less_white_and_more() -> None:
    clean = np.full((2, 2, 3), 100, np.uint8)
    adversarial = clean.copy()
    adversarial[0, 0, 0], adversarial[0, 1, 0], adversarial[1, 1, 2] = 96, 104, 102
    maps, most = difference_maps(clean, adversarial)
    assert most == 4
    red, green, blue = (np.asarray(decoded(each.source).convert("RGB")) for each in maps)
    less, same, more = palette(np.array([-1.0, 0.0, 1.0]))
    assert (red[0, 0] == less).all()
    assert (red[0, 1] == more).all()
    assert (red[1] == same).all()
    assert (green == same).all()
    assert (blue[1, 1] == palette(np.array(0.5))).all()
    assert [each.caption for each in maps] == [
        ("red", "from -4 to +4 grey levels"),
        ("green", "from +0 to +0 grey levels"),
        ("blue", "from +0 to +2 grey levels"),
    ]


def test_the_colour_bar_ends_where_the_palette_ends() -> None:
    bar = np.asarray(decoded(colour_bar()).convert("RGB"))
    assert (bar[0, [0, 127, -1]] == palette(np.array([-1.0, 0.0, 1.0]))).all()


def test_large_changes_fit_into_a_palette() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    maps, most = difference_maps(black, white)
    assert most == 255
    assert (np.asarray(decoded(maps[0].source).convert("RGB")) == palette(np.array(1.0))).all()


def test_amplified_differences_are_on_grey_and_clipped() -> None:
    changed = np.array([[[-13, -1, 0], [1, 5, 40]]], np.int16)
    assert pixels(amplified(changed, 10)).tolist() == [[[0, 118, 128], [138, 178, 255]]]


@pytest.mark.parametrize(("cycles", "ring"), [(0, 0), (3, 1), (7, 3)])
def test_a_wave_has_its_energy_in_the_ring_of_its_frequency(cycles: int, ring: int) -> None:
    """16 pixels: Nyquist is 8 cycles, and a ring of four is 2 cycles wide."""
    wave = np.round(50 * np.cos(2 * np.pi * cycles * np.arange(16) / 16)).astype(np.int16)
    shares = energies(np.broadcast_to(wave[:, None, None], (16, 16, 3)), frequency_rings(16, 4), 4)
    assert shares.sum() == pytest.approx(1)
    assert shares[ring] > 0.999


def test_the_spectrum_of_a_run_is_that_of_its_stored_pictures(tmp_path: Path) -> None:
    clean = np.full((16, 16, 3), 128, np.uint8)
    attacked = [np.clip(noise(16, seed).astype(int) % 9 + 124, 0, 255).astype(np.uint8) for seed in (1, 2)]
    canvases = [{"image_id": f"i{n}", "canvas": png(clean)} for n in range(3)]
    canvases += [
        {"image_id": f"i{n}", "attack": "pgd", "canvas": png(each)} for n, each in enumerate([*attacked, clean])
    ]
    attacks = [{"image_id": f"i{n}", "attack": "pgd"} for n in range(3)]
    section = spectra(open_run(str(made_run(tmp_path / "run", [], attacks, canvases=canvases))))
    assert section is not None
    (found,) = section.exhibits
    down, across = np.meshgrid(scipy.fft.fftfreq(16), scipy.fft.fftfreq(16), indexing="ij")
    radius = np.sqrt(down**2 + across**2)
    shares = []
    for each in attacked:
        power = sum(np.abs(scipy.fft.fft2(each[..., k].astype(float) - 128)) ** 2 for k in range(3))
        shares.append(power / power.sum())
    low = np.mean([share[radius < 0.25].sum() for share in shares])
    rows = [row for row in found.table.records() if row["frequency"] < 0.5]
    assert sum(row["share"] for row in rows) == pytest.approx(low)
    assert sum(row["share"] for row in found.table.records()) == pytest.approx(1)
    assert set(found.table.column("images")) == {2}, "an untouched picture has no spectrum"
    coefficients = sum(row["share"] / row["density"] for row in rows) * 256
    assert coefficients == pytest.approx((radius < 0.25).sum())


def test_only_the_pictures_that_are_asked_for_are_read(tmp_path: Path) -> None:
    names = ("a", "b", "o'c")
    canvases = [{"image_id": name, "canvas": name.encode()} for name in names]
    images = [{"image_id": name} for name in names]
    run = open_run(str(made_run(tmp_path / "run", images=images, canvases=canvases)))
    assert png_files(run, "none", ["a", "o'c", "missing"]) == {"a": b"a", "o'c": b"o'c"}
    assert png_files(run, "pgd", ["a"]) == {}

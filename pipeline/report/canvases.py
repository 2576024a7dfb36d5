"""Canvases as pictures for the page: originals, differences, low-passed ones, thumbnails."""

import base64
from collections.abc import Collection
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.report.section import Picture
from transforms.errors import InputError, said_by

if TYPE_CHECKING:
    from pipeline.results.tables import Run

Canvas = npt.NDArray[np.uint8]
"""uint8 (S, S, 3)."""


def png_files(run: "Run", attack: str, image_ids: Collection[str]) -> dict[str, bytes]:
    """The stored PNG files of some images after an attack (`none`: clean), by image; those that there are."""
    if not image_ids:
        return {}
    where = (ds.field("attack") == attack) & ds.field("image_id").isin(sorted(image_ids))
    # Read without running ahead: a row group of pictures is tens of megabytes.
    ahead = {"batch_size": 16, "batch_readahead": 1, "fragment_readahead": 1}
    try:
        found = run.dataset("canvases").scanner(columns=["image_id", "canvas"], filter=where, **ahead).to_table()
    except pa.ArrowException as error:
        raise InputError(f"canvases: {said_by(error).rstrip('.')}; `megalith verify` names damaged parts") from None
    return dict(zip(found["image_id"].to_pylist(), found["canvas"].to_pylist(), strict=True))


def pixels(png: bytes) -> Canvas:
    """A PNG file, decoded."""
    from PIL import Image  # noqa: PLC0415 - a page without pictures needs none

    with Image.open(BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def change(clean: Canvas, adversarial: Canvas) -> npt.NDArray[np.int16]:
    """The perturbation in grey levels, int16 (S, S, 3), -255–255."""
    return adversarial.astype(np.int16) - clean


def address(content: bytes, kind: str) -> str:
    """A file inside an address: `data:image/png;base64,…`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(canvas: Canvas, side: int) -> str:
    """A small picture's address; lossy, so what a perturbation of few levels changes is gone."""
    from PIL import Image  # noqa: PLC0415 - said above

    small = Image.fromarray(canvas)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _saved(small, "webp", quality=78, method=4)


def _saved(image: "object", kind: str, **options: int) -> str:
    return address(_file(image, kind, **options), kind)


def _file(image: "object", kind: str, **options: int) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)  # type: ignore[attr-defined]
    return file.getvalue()


_STOPS = ((33, 102, 172), (247, 247, 247), (178, 24, 43))
"""Less, as before, more: the ends and the middle of ColorBrewer's RdBu, which the colour-blind tell apart."""


def palette(values: npt.NDArray[np.float64]) -> Canvas:
    """Colours, uint8 (…, 3), of values in [-1, 1]."""
    levels = [np.interp(values, (-1, 0, 1), [stop[channel] for stop in _STOPS]) for channel in range(3)]
    return np.stack(levels, axis=-1).round().astype(np.uint8)


def difference_maps(clean: Canvas, adversarial: Canvas) -> tuple[tuple[Picture, ...], int]:
    """A map of each colour channel's change, and the grey levels that the ends of its colours stand for."""
    changed = change(clean, adversarial)
    most = max(1, int(np.abs(changed).max()))
    pictures = []
    for place, name in enumerate(("red", "green", "blue")):
        levels = changed[..., place]
        said = f"from {levels.min():+d} to {levels.max():+d} grey levels"
        pictures.append(Picture(_mapped(levels, most), f"Difference map of the {name} channel, {said}", (name, said)))
    return tuple(pictures), most


def _mapped(levels: npt.NDArray[np.int16], most: int) -> str:
    from PIL import Image  # noqa: PLC0415 - said above

    # One palette entry per level as long as a PNG's palette holds them all, which makes files small.
    entries = min(255, 2 * most + 1)
    index = ((levels.astype(np.float64) / most + 1) / 2 * (entries - 1)).round().astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette(palette(np.linspace(-1, 1, entries)).tobytes())
    return _saved(image, "png")


def colour_bar() -> str:
    """The colours of `difference_maps`, from the least to the most, as a strip."""
    from PIL import Image  # noqa: PLC0415 - said above

    return _saved(Image.fromarray(np.repeat(palette(np.linspace(-1, 1, 255))[None], 8, axis=0)), "png")


def low_passed(canvas: Canvas, cutoff: float) -> Canvas:
    """What the defence `lowpass` makes of a canvas, without torch: see `transforms/defenses/fourier.py`.

    Args:
        cutoff: share of the Nyquist frequency per axis, in (0, 1].
    """
    side = canvas.shape[0]
    highest = int(cutoff * side / 2 + 1e-9)
    index = np.arange(side)
    kept = np.minimum(index, side - index) <= highest
    spectrum = np.fft.rfft2(canvas.astype(np.float64), axes=(0, 1))
    spectrum *= (kept[:, None] & kept[: side // 2 + 1])[..., None]
    levels = np.fft.irfft2(spectrum, s=(side, side), axes=(0, 1))
    rounded: Canvas = ((levels * 2**20).round() / 2**20).round().clip(0, 255).astype(np.uint8)
    return rounded


def frequency_rings(side: int, count: int) -> npt.NDArray[np.int64]:
    """In which ring of spatial frequencies each coefficient of a square picture is, int64 (side, side).

    The rings are of one width, from 0 to the Nyquist frequency; the corners beyond belong to the last one.
    """
    frequency = np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency)
    rings: npt.NDArray[np.int64] = np.minimum((radius / 0.5 * count).astype(np.int64), count - 1)
    return rings


def energies(changed: npt.NDArray[np.int16], rings: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Shares of a perturbation's energy in rings of spatial frequency, float64 (count,); NaN where nothing changed."""
    power = (np.abs(np.fft.fft2(changed.astype(np.float64), axes=(0, 1))) ** 2).sum(axis=-1)
    shares: npt.NDArray[np.float64] = np.bincount(rings.ravel(), power.ravel(), minlength=count) / power.sum()
    return shares


def amplified(changed: npt.NDArray[np.int16], times: int) -> bytes:
    """A perturbation on middle grey, `times` as large and clipped, as a PNG file."""
    from PIL import Image  # noqa: PLC0415 - said above

    levels = (changed.astype(np.int32) * times + 128).clip(0, 255).astype(np.uint8)
    return _file(Image.fromarray(levels), "png")

"""Decoding: torchvision as the oracle of geometry, hand-made images for each rule, hostile bytes."""

import re
import struct
import warnings
import zlib
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, features
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from transforms.data.decode import SUFFIXES, BadImage, CanvasSpec, decode, decode_as_is, formats
from transforms.errors import InputError
from transforms.steps.process import prepare_numerics

# With sides equal to the image's, decoding neither resizes nor crops: the canvas is the image.
SAME = CanvasSpec(resize=8, crop=8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(data: bytes, canvas: CanvasSpec = SAME) -> NDArray[np.uint8]:
    """The canvas as (H, W, 3), the way Pillow and people count."""
    return decode(data, canvas).canvas.transpose(1, 2, 0)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (257, 301), (333, 1000), (64, 48), (256, 256), (1, 30)])
@pytest.mark.parametrize("canvas", [CanvasSpec(), CanvasSpec(224, 224), CanvasSpec(257, 224), CanvasSpec(33, 20)])
def test_geometry_is_torchvisions(size: tuple[int, int], canvas: CanvasSpec) -> None:
    image = noise(*size)
    oracle = np.asarray(Compose([Resize(canvas.resize, InterpolationMode.BICUBIC), CenterCrop(canvas.crop)])(image))
    decoded = decode(encode(image), canvas)
    assert np.array_equal(decoded.canvas, oracle.transpose(2, 0, 1))
    assert decoded.canvas.dtype == np.uint8 and decoded.canvas.shape == (3, canvas.crop, canvas.crop)
    assert decoded.canvas.flags.c_contiguous
    assert (decoded.width, decoded.height) == size


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, kind: str, options: dict[str, Any]) -> None:
    """EXIF defines a value by where the stored first row and first column belong in the upright image."""
    upright = np.asarray(noise(6, 4))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    decoded = decode(data, CanvasSpec(4, 4))
    assert (decoded.width, decoded.height) == (6, 4)
    assert np.array_equal(decoded.canvas.transpose(1, 2, 0), upright[:, 1:5])


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0junk" * 5])
def test_damaged_exif_counts_as_upright(exif: bytes) -> None:
    image = noise(8, 8)
    assert np.array_equal(pixels(encode(image, "PNG", exif=exif)), np.asarray(image))


def test_greyscale_is_replicated() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(pixels(encode(Image.fromarray(grey))), np.stack([grey] * 3, -1))


def test_black_and_white() -> None:
    bits = np.indices((8, 8)).sum(0) % 2 == 0
    assert np.array_equal(pixels(encode(Image.fromarray(bits)))[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greyscale_is_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = np.array([(int(v) + 128) // 257 for v in values.flat]).reshape(8, 8)
    assert np.array_equal(pixels(encode(Image.fromarray(values), kind))[..., 0], expected)


def test_16_bit_greyscale_of_either_byte_order() -> None:
    big = Image.frombytes("I;16B", (8, 8), np.full((8, 8), 0x8001, ">u2").tobytes())
    assert np.all(pixels(encode(big, "TIFF")) == 128)


def tiff(values: NDArray[Any], bits: int, photometric: int, order: str = "<") -> bytes:
    """A TIFF of one strip; photometric 0 is WhiteIsZero, 1 BlackIsZero (TIFF 6.0, page 37)."""
    height, width = values.shape
    data = (
        np.packbits(values.astype(bool), axis=1).tobytes()
        if bits == 1
        else values.astype(f"{order}u{bits // 8}").tobytes()
    )
    sizes = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags = [*sizes, (279, len(data))]
    directory = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    start = 8 + len(data)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, start)
    return head + data + struct.pack(f"{order}H", len(tags)) + directory + bytes(4)


@pytest.mark.parametrize(("bits", "order"), [(1, "<"), (1, ">"), (8, "<"), (8, ">"), (16, "<")])
def test_white_is_zero_is_turned_whatever_its_depth(bits: int, order: str) -> None:
    white = 2**bits - 1
    values = np.random.default_rng(bits).integers(0, white + 1, (8, 8))
    grey = (values * 255 + white // 2) // white
    assert np.array_equal(pixels(tiff(values, bits, 1, order))[..., 0], grey)
    assert np.array_equal(pixels(tiff(white - values, bits, 0, order))[..., 0], grey)


def test_big_endian_16_bit_white_is_zero_is_refused() -> None:
    """Pillow does not know it; better no image than its negative."""
    with pytest.raises(BadImage):
        decode(tiff(np.zeros((8, 8), int), 16, 0, ">"), SAME)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_16_bit_white_is_zero(compression: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    data = encode(Image.fromarray(values), "TIFF", compression=compression, tiffinfo={262: 0})
    with Image.open(BytesIO(data)) as image:
        assert image.tag_v2[262] == 0  # type: ignore[attr-defined]
    assert np.array_equal(pixels(data)[..., 0], 255 - (values.astype(int) + 128) // 257)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_greyscale_is_refused(dtype: type) -> None:
    with pytest.raises(BadImage, match="no stated white"):
        decode(encode(Image.fromarray(np.ones((8, 8), dtype)), "TIFF"), SAME)


def test_cmyk() -> None:
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[...] = (255, 51, 0, 102)  # C = 1, M = 0.2, Y = 0, K = 0.4
    image = Image.frombytes("CMYK", (8, 8), inks.tobytes())
    assert pixels(encode(image, "TIFF"))[0, 0].tolist() == pytest.approx([0, 255 * 0.8 * 0.6, 255 * 0.6], abs=1)


def test_adobes_inverted_cmyk_jpeg() -> None:
    """Pillow writes CMYK JPEGs as Adobe does, inverted and marked so: no ink must come back white."""
    paper = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    data = encode(paper, "JPEG")
    assert b"Adobe" in data
    assert np.all(pixels(data) == 255)


def test_palette_is_expanded() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert np.all(pixels(encode(image)) == (10, 20, 30))


def test_alpha_is_composited_over_white() -> None:
    image = Image.new("RGBA", (8, 8), (0, 100, 200, 51))
    image.putpixel((0, 0), (9, 9, 9, 0))
    image.putpixel((1, 0), (9, 9, 9, 255))
    got = pixels(encode(image))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[0, 1].tolist() == [9, 9, 9]
    assert got[1, 1].tolist() == pytest.approx([255 * 0.8, 20 + 204, 40 + 204], abs=1)


def test_grey_with_alpha_is_composited_over_white() -> None:
    assert np.all(pixels(encode(Image.new("LA", (8, 8), (77, 0)))) == 255)


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_a_palettes_transparency_is_composited_over_white(transparency: int | bytes) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((3, 0), 1)
    got = pixels(encode(image, transparency=transparency))
    assert got[0, 3].tolist() == [255, 255, 255]
    assert got[0, 0].tolist() == [10, 20, 30]


def test_a_transparent_colour_is_composited_over_white() -> None:
    assert np.all(pixels(encode(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3))) == 255)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_of_an_animation_the_first_frame(kind: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert np.all(pixels(data) == (255, 0, 0))


def test_icc_profiles_are_ignored() -> None:
    image = noise(8, 8)
    assert np.array_equal(pixels(encode(image, icc_profile=b"any profile")), np.asarray(image))


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, body))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(8193, 8193), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_from_its_header_without_a_word(size: tuple[int, int]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        prepare_numerics()
        with pytest.raises(BadImage, match="too large"):
            decode(png_header(*size), CanvasSpec())
    assert caught == []


def test_pillows_own_bound_is_left_alone() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode(encode(noise(8, 8)), SAME)
    assert before == Image.MAX_IMAGE_PIXELS == 1024 * 1024 * 1024 // 4 // 3


def heif_installed() -> bool:
    return find_spec("pillow_heif") is not None


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow lacks AVIF")),
        pytest.param("HEIF", marks=pytest.mark.skipif(not heif_installed(), reason="pillow-heif is not installed")),
    ],
)
def test_avif_and_heif(kind: str) -> None:
    assert kind in formats()
    colours = Image.new("RGB", (64, 32), (200, 30, 30))
    colours.paste((30, 30, 200), (32, 0, 64, 32))
    data = encode(colours, kind, quality=95)
    decoded = decode(data, CanvasSpec(32, 32))
    assert (decoded.width, decoded.height) == (64, 32)
    assert decoded.canvas[:, 16, 4].astype(int) == pytest.approx([200, 30, 30], abs=8)
    assert decoded.canvas[:, 16, 28].astype(int) == pytest.approx([30, 30, 200], abs=8)
    if kind == "AVIF":  # HEIF has a rotation of its own, which its library applies, and no say for EXIF's
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = decode(encode(colours, kind, quality=95, exif=exif), CanvasSpec(32, 32))
        assert (turned.width, turned.height) == (32, 64)
        assert turned.canvas[:, 4, 16].astype(int) == pytest.approx([200, 30, 30], abs=8)
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert np.all(pixels(encode(clear, kind, quality=95), CanvasSpec(16, 16)) >= 250)
    for wrong in (data[: len(data) // 2], data[:40], data[:-20]):
        with pytest.raises(BadImage):
            decode(wrong, CanvasSpec(32, 32))
    side = data.index(b"ispe") + 8
    with pytest.raises(BadImage):
        decode(data[:side] + struct.pack(">II", 60_000, 60_000) + data[side + 8 :], CanvasSpec(32, 32))


def test_formats_that_are_not_listed_stay_shut() -> None:
    """Pillow opens JPEG 2000, ICO and others, too; nobody looked at their bounds."""
    assert set(formats()) <= set(SUFFIXES)
    for kind in ("JPEG2000", "ICO", "PPM", "TGA"):
        with pytest.raises(BadImage, match="not an image"):
            decode(encode(noise(32, 32), kind), SAME)


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_too_elongated_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadImage, match=r"too elongated: resized: .* x .* pixels"):
        decode(encode(Image.new("RGB", size)), CanvasSpec())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"This is a text.", "not an image"),
        (b"\xff\xd8\xff", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (encode(noise(64, 64), "JPEG")[:1500], "truncated"),
        (encode(noise(64, 64), "PNG")[:5000], "truncated"),
        (encode(noise(64, 64), "BMP")[:5000], "truncated"),
        (encode(noise(64, 64), "TIFF")[:5000], "."),
        (encode(noise(64, 64), "WEBP")[:1000], "."),
    ],
)
def test_bad_bytes_have_a_short_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason) as caught:
        decode(data, CanvasSpec())
    assert "\n" not in str(caught.value) and 0 < len(str(caught.value)) < 200
    assert "0x" not in str(caught.value), "an address would differ from run to run"


def test_what_libjpeg_mends_with_a_warning_passes() -> None:
    """As data/README.md says; where Pillow tells of the warnings one day, these become failures."""
    data = encode(noise(64, 64), "JPEG")
    scan = data.index(b"\xff\xda") + 2
    scan += int.from_bytes(data[scan : scan + 2])
    for mended in (data[: len(data) // 2] + b"\xff\xd9", data[:scan] + bytes(len(data) - scan - 2) + b"\xff\xd9"):
        assert not np.array_equal(pixels(mended, CanvasSpec(64, 64)), pixels(data, CanvasSpec(64, 64)))


VICTIMS = [
    *(encode(noise(24, 20), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "AVIF")),
    encode(noise(24, 20), "TIFF", compression="tiff_lzw"),
    encode(noise(24, 20).convert("P"), "PNG", transparency=0),
]


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(
    victim=st.sampled_from(VICTIMS),
    wounds=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=12),
    length=st.integers(0, 4000),
)
def test_mutated_bytes_raise_nothing_but_bad_image(victim: bytes, wounds: list[tuple[int, int]], length: int) -> None:
    data = bytearray(victim)
    for position, value in wounds:
        data[position % len(data)] = value
    try:
        decoded = decode(bytes(data[:length]), CanvasSpec(16, 12))
    except BadImage as error:
        assert 0 < len(str(error)) < 200
    else:
        assert decoded.canvas.shape == (3, 12, 12)


@pytest.mark.parametrize("sides", [(0, 0), (224, 256), (256, 0), (-1, -1), (10**6, 224), (256.0, 224), (True, True)])
def test_impossible_canvases_are_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"^(resize|crop): .* is not a whole number of pixels"):
        CanvasSpec(*sides)


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG with more and more of its last scan."""
    data = encode(noise(side, side), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def test_scans_of_a_jpeg_are_counted_in_pixels() -> None:
    """2^31 pixels are gone over at most; the largest image may have its usual ten scans."""
    assert pixels(many_scans(8, 500)).shape == (8, 8, 3)
    data = bytearray(many_scans(8, 100))
    size = data.index(b"\xff\xc2") + 5
    data[size : size + 4] = struct.pack(">HH", 8000, 8000)
    with pytest.raises(BadImage, match=f"more than {2**31 // 8000**2} scans of 64000000 pixels"):
        decode(bytes(data), SAME)


def test_pieces_of_a_header_are_counted() -> None:
    """Pillow's time for a GIF's comments grows with the square of their number."""
    gif = encode(noise(8, 8), "GIF")
    picture = gif.index(b",", 13 + 3 * 2 ** (gif[10] % 8 + 1))
    for count, fine in ((100, True), (100_000, False)):
        data = gif[:picture] + b"!\xfe\1a\0" * count + gif[picture:]
        if fine:
            assert np.array_equal(pixels(data), pixels(gif))
        else:
            with pytest.raises(BadImage, match="too many pieces"):
                decode(data, SAME)


def test_tiles_larger_than_an_image_may_be_are_refused() -> None:
    tags = [(256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1), (322, 2**15), (323, 2**15), (324, 8), (325, 99)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    with pytest.raises(BadImage, match="too large a tile: 32768 x 32768"):
        decode(b"II*\0" + struct.pack("<I", 107) + bytes(99) + struct.pack("<H", len(tags)) + entries + bytes(4), SAME)


@pytest.mark.parametrize("mode", ["RGB", "LA", "P", "I;16"])
def test_colours_of_a_large_image_are_those_of_its_parts(mode: str) -> None:
    """Large images are converted strip by strip: here three of them, with a short one at the end."""
    wide = np.asarray(noise(1200, 2000).convert("L"))
    image = Image.fromarray(wide.astype(np.uint16) * 250) if mode == "I;16" else Image.fromarray(wide).convert(mode)
    options: dict[str, Any] = {"transparency": 7} if mode == "P" else {}
    whole = pixels(encode(image, **options), CanvasSpec(1200, 1200))
    for top in (400, 1000, 1500):
        part = pixels(encode(image.crop((0, top, 1200, top + 100)), **options), CanvasSpec(100, 100))
        assert np.array_equal(whole[top - 400 : top - 300, 550:650], part)


# --- canvases as other tools write them


SQUARE = np.random.default_rng(5).integers(0, 256, (24, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "RGBA", "palette", "grey"])
def test_a_canvas_is_taken_as_it_is(kind: str) -> None:
    image = Image.fromarray(SQUARE)
    image = {"RGBA": image.convert("RGBA"), "palette": image.quantize(16), "grey": image.convert("L")}.get(kind, image)
    data = encode(image, kind if kind in ("BMP", "TIFF") else "PNG")
    assert np.array_equal(decode_as_is(data, 24), np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def deep_png() -> bytes:
    """Of 16 bits a channel, by hand: Pillow reads such files, and writes none."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in SQUARE.reshape(24, -1) * np.uint16(257))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 24, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def transparent_png() -> bytes:
    alpha = np.full((24, 24, 1), 255, np.uint8)
    alpha[3, 4] = 254
    return encode(Image.fromarray(np.concatenate([SQUARE, alpha], axis=2)), "PNG")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encode(Image.fromarray(SQUARE[:20]), "PNG"), "24 x 20 pixels, where the canvas has 24 x 24"),
        (deep_png(), "PNG of 16 bits a channel, where the canvas has 8"),
        (encode(Image.fromarray(SQUARE[..., 0].astype(np.uint16)), "TIFF"), "TIFF of 16 bits"),
        (transparent_png(), "transparent somewhere"),
        (b"no picture", "not an image"),
        (b"", "empty file"),
    ],
)
def test_what_is_no_canvas_is_not_made_one(data: bytes, said: str) -> None:
    with pytest.raises(BadImage, match=re.escape(said)):
        decode_as_is(data, 24)

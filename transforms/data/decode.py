"""Encoded bytes → canvas. Pure: no files, no Beam, and no exception but `BadImage`, whatever the bytes."""

import re
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile

from transforms.errors import InputError

MAX_PIXELS = 2**26
"""Bound on the pixels of an image, as stored and as resized: 8192 x 8192, about 1 GB while a WebP is decoded, half of
that in the other formats."""

MAX_RESIZE = 4096
"""Bound on `CanvasSpec.resize`, in pixels."""

# An allow-list: Pillow also opens formats that start other programs (EPS runs ghostscript) or that nobody fuzzes.
SUFFIXES = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Formats, and how names of their files end."""

_NAMED = "BMP, GIF, JPEG, PNG, TIFF, WEBP"
"""In a reason, which stands in tables and so may depend neither on what is installed nor on the version."""

_BACKGROUND = (255, 255, 255, 255)

_STRIP = 2**20
"""Pixels whose colours are converted at once: some conversions take several times the memory of what they convert."""

_HEADER_READS = 10_000
"""Pillow reads a header piece by piece, and of some pieces (GIF's comments) each costs more than the one before."""

_MOST_SCANNED = 2**31
"""Bound on pixels x scans of a JPEG, each of which goes over the whole image: 32 scans of the largest, about 10 s.
Progressive JPEGs have some 10 scans; libjpeg takes any number of them, of a few bytes each (D. R. Commander and
G. Markham, "Two Issues with the JPEG Standard", 2016, LJT-01-003)."""

_SOS, _EOI = b"\xda", b"\xd9"
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # without those that stand alone
_TIFF_TILE = (322, 323)
_TIFF_BITS = 258
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has."""
_CANVAS_BITS = 8
_OPAQUE = 255

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@cache
def formats() -> tuple[str, ...]:
    """Those of `SUFFIXES` that can be read here: HEIF if pillow-heif is installed, AVIF if Pillow has it."""
    missing = set() if features.check("avif") else {"AVIF"}
    try:
        from pillow_heif import register_heif_opener  # noqa: PLC0415 - an extra, and slow

        register_heif_opener(thumbnails=False)
    except ImportError:
        missing.add("HEIF")
    return tuple(sorted(SUFFIXES.keys() - missing))


class BadImage(ValueError):  # noqa: N818 - a verdict on an image, not an error of the program
    """These bytes are not a usable image; the message is a short reason on one line."""


@dataclass(frozen=True)
class CanvasSpec:
    """How an image becomes a canvas.

    Attributes:
        resize: length of the resized image's short side, in pixels, at most `MAX_RESIZE`.
        crop: side of the square cut from its centre, in pixels, at most `resize`.

    Raises:
        InputError: a side is not a positive integer or out of bounds.
    """

    resize: int = 256
    crop: int = 224

    @property
    def field_of_view(self) -> float:
        """The part of an image's centre square that the canvas holds, in (0, 1]."""
        return self.crop / self.resize

    def __post_init__(self) -> None:
        for key, most in (("resize", MAX_RESIZE), ("crop", self.resize)):
            value = getattr(self, key)
            if type(value) is not int or not 1 <= value <= most:
                raise InputError(f"{key}: {value!r} is not a whole number of pixels in 1–{most}")


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded image.

    Attributes:
        canvas: uint8 (3, crop, crop), RGB, C-contiguous.
        width: of the upright original, in pixels.
        height: of the upright original, in pixels.
    """

    canvas: NDArray[np.uint8]
    width: int
    height: int


def decode(data: bytes, canvas: CanvasSpec) -> Decoded:
    """Decodes an image, resizes its short side with Pillow's bicubic filter, and cuts the centre square.

    The geometry is that of torchvision's `Resize` and `CenterCrop` on a Pillow image, bit for bit. The rules:

    - Formats: AVIF, BMP, GIF, JPEG, PNG, TIFF, WebP, and HEIF if pillow-heif is installed. Of an animation or
      a multi-page file, the first frame.
    - Size: an image with more than `MAX_PIXELS` pixels is refused from its header, and so is one so elongated
      that it would have more than that after resizing, and one that hides work beyond its pixels: a JPEG of very many
      scans, a TIFF of larger tiles, headers in thousands of pieces.
    - Orientation: EXIF's (or XMP's) is applied, all eight values; if unreadable, the image counts as upright. HEIF
      has a rotation of its own instead.
    - Greyscale is replicated; black-and-white becomes 0 and 255; a palette is expanded.
    - 16-bit greyscale v becomes round(v / 257), so that 65535 is white; its transparent value, if any, is ignored.
      Of 16-bit colour, Pillow keeps the high byte.
    - TIFF's WhiteIsZero is turned: 0 is white. With 16 bits in big-endian order it is refused, which Pillow lacks.
    - 32-bit greyscale, integer or float, is refused: nothing in it says which value is white.
    - CMYK becomes R = (1 - C)(1 - K) and so on, without a colour profile; Adobe's inverted JPEGs are recognised.
    - Transparency, a palette's included, is composited over white.
    - A JPEG whose compressed data are damaged in the middle is taken as libjpeg mends it: Pillow hides the warnings.
    - Embedded ICC profiles are ignored: models were trained on the numbers in the file.

    Raises:
        BadImage: `data` is empty, no image, truncated, damaged, too large, or of a kind refused above.
    """
    if not data:
        raise BadImage("empty file")
    try:
        image = _upright_rgb(data, canvas)
        return Decoded(_centre(image, canvas), image.width, image.height)
    except (BadImage, MemoryError):  # The machine's memory is no property of the image.
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, far above ours, is looked at first.
        raise BadImage(f"too large: at most {MAX_PIXELS} pixels are accepted") from None
    except UnidentifiedImageError:
        raise BadImage(f"not an image, or its header is damaged (formats: {_NAMED})") from None
    except Exception as error:  # On hostile bytes Pillow raises anything from SyntaxError to struct.error.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadImage(f"cannot be decoded: {reason}") from error


def decode_as_is(data: bytes, side: int) -> NDArray[np.uint8]:
    """Decodes a picture that is a canvas already, under the bounds of `decode`; no value of a pixel changes.

    Args:
        side: of the canvas, pixels.

    Returns:
        uint8 (3, side, side), RGB, C-contiguous.

    Raises:
        BadImage: it is no image, of another size, not of 8 bits a channel, or transparent somewhere.
    """
    decoded = decode(data, CanvasSpec(side, side))
    if (decoded.width, decoded.height) != (side, side):
        raise BadImage(f"{decoded.width} x {decoded.height} pixels, where the canvas has {side} x {side}")
    with Image.open(_Metered(data), formats=formats()) as image:
        bits = _bits(image, data)
        if bits != _CANVAS_BITS:
            raise BadImage(f"{image.format} of {bits or 'an unknown number of'} bits a channel, where the canvas has 8")
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != _OPAQUE:
            raise BadImage("transparent somewhere, as a canvas is not")
    return decoded.canvas


def _bits(image: Image.Image, data: bytes) -> int | None:
    """Bits a channel, as stored; None of formats of which Pillow does not tell."""
    if image.format == "PNG":
        return max(data[_PNG_DEPTH], _CANVAS_BITS)  # of fewer, a palette's say, each becomes one of 8
    if isinstance(image, TiffImageFile):
        return int(max(*image.tag_v2.get(_TIFF_BITS, (1,)), _CANVAS_BITS))
    return _CANVAS_BITS if image.format in ("BMP", "GIF", "JPEG", "WEBP") else None


class _Metered(BytesIO):
    """Bytes that may be read so many times, in pieces of any size."""

    reads = _HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise BadImage("its header or its data is in too many pieces")
        return super().read(size)


def _upright_rgb(data: bytes, canvas: CanvasSpec) -> Image.Image:
    file = _Metered(data)
    with Image.open(file, formats=formats()) as image:
        _check_pixels(image.width, image.height, "too large")
        _resized(image, canvas)
        _check_hidden_size(image, data)
        file.reads = _HEADER_READS + len(data) // 64
        image.load()
        orientation = _orientation(image)
        rgb = _to_rgb(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _check_hidden_size(image: Image.Image, data: bytes) -> None:
    """What costs memory or time beyond an image's pixels."""
    if isinstance(image, TiffImageFile):  # libtiff reads whole tiles, which may be larger than the image
        width, height = (image.tag_v2.get(tag, 1) for tag in _TIFF_TILE)
        _check_pixels(width, height, "too large a tile")
    if data.startswith(b"\xff\xd8"):
        _check_scans(data, image.width * image.height)


def _check_scans(jpeg: bytes, pixels: int) -> None:
    scans = position = 0
    for _ in range(_HEADER_READS):
        marker = _JPEG_MARKER.search(jpeg, position)
        if marker is None or marker[1] == _EOI:
            return
        scans += marker[1] == _SOS
        if scans * pixels > _MOST_SCANNED:
            raise BadImage(f"more than {scans - 1} scans of {pixels} pixels")
        position = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    raise BadImage(f"more than {_HEADER_READS} segments")


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # A damaged note about the image does not damage its pixels.
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise BadImage("32-bit greyscale has no stated white; save it with 8 or 16 bits")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    # Pillow turns what is WhiteIsZero, except for 16 bits.
    is_negative = image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(_strip_to_rgb(image.crop(strip)), strip)
    return ImageOps.invert(rgb) if is_negative else rgb


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.rint(grey / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _BACKGROUND), image)
    return image.convert("RGB")


def _resized(image: Image.Image, canvas: CanvasSpec) -> tuple[int, int]:
    """Width and height with a short side of `canvas.resize`; raises BadImage if that is too many pixels."""
    short = min(image.size)
    width, height = (canvas.resize * side // short for side in image.size)
    _check_pixels(width, height, "too elongated: resized")
    return width, height


def _centre(image: Image.Image, canvas: CanvasSpec) -> NDArray[np.uint8]:
    width, height = _resized(image, canvas)
    # round(), not //: torchvision rounds half pixels to even.
    left, top = (round((side - canvas.crop) / 2) for side in (width, height))
    square = image.resize((width, height), Image.Resampling.BICUBIC).crop(
        (left, top, left + canvas.crop, top + canvas.crop)
    )
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _check_pixels(width: int, height: int, complaint: str) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(f"{complaint}: {width} x {height} pixels, at most {MAX_PIXELS} are accepted")

"""Encoded bytes → canvas. Pure: no files, no Beam, and no exception but `BadImage`, whatever the bytes."""

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from transforms.errors import InputError

MAX_PIXELS = 2**26
"""Bound on the pixels of an image, as stored and as resized: 8192 x 8192, some 270 MB while it is decoded."""

MAX_RESIZE = 4096
"""Bound on `CanvasSpec.resize`, in pixels."""

# An allow-list: Pillow also opens formats that start other programs (EPS runs ghostscript) or that nobody fuzzes.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")

_BACKGROUND = (255, 255, 255, 255)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns on stderr about what BadImage reports or what does no harm. Set once, for Pillow's modules alone:
# warnings.catch_warnings around each decode would race with other threads and could silence everybody for good.
warnings.filterwarnings("ignore", module=r"PIL\.")


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
    def field(self) -> float:
        """The part of an image's centre square that the canvas holds, in (0, 1]."""
        return self.crop / self.resize

    def __post_init__(self) -> None:
        for key, most in (("resize", MAX_RESIZE), ("crop", self.resize)):
            value = getattr(self, key)
            if type(value) is not int or not 1 <= value <= most:
                raise InputError(f"canvas.{key}: {value!r} is not a whole number of pixels in 1–{most}")


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

    - Formats: BMP, GIF, JPEG, PNG, TIFF, WebP. Of an animation or a multi-page file, the first frame.
    - Size: an image with more than `MAX_PIXELS` pixels is refused from its header, and so is one so elongated
      that it would have more than that after resizing.
    - Orientation: EXIF's (or XMP's) is applied, all eight values; if unreadable, the image counts as upright.
    - Greyscale is replicated; black-and-white becomes 0 and 255; a palette is expanded.
    - 16-bit greyscale v becomes round(v / 257), so that 65535 is white; its transparent value, if any, is ignored.
      Of 16-bit colour, Pillow keeps the high byte.
    - 32-bit greyscale, integer or float, is refused: nothing in it says which value is white.
    - CMYK becomes R = (1 - C)(1 - K) and so on, without a colour profile; Adobe's inverted JPEGs are recognised.
    - Transparency, a palette's included, is composited over white.
    - Embedded ICC profiles are ignored: models were trained on the numbers in the file.

    Raises:
        BadImage: `data` is empty, no image, truncated, damaged, too large, or of a kind refused above.
    """
    if not data:
        raise BadImage("empty file")
    try:
        image = _upright_rgb(data)
        return Decoded(_centre(image, canvas), image.width, image.height)
    except (BadImage, MemoryError):  # The machine's memory is no property of the image.
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, far above ours, is looked at first.
        raise BadImage(f"too large: at most {MAX_PIXELS} pixels are accepted") from None
    except UnidentifiedImageError:
        raise BadImage(f"not an image, or its header is damaged (formats: {', '.join(_FORMATS)})") from None
    except Exception as error:  # On hostile bytes Pillow raises anything from SyntaxError to struct.error.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadImage(f"cannot be decoded: {reason}") from error


def _upright_rgb(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data), formats=_FORMATS) as image:
        _check_pixels(image.width, image.height, "too large")
        image.load()
        orientation = _orientation(image)
        rgb = _to_rgb(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # A damaged note about the image does not damage its pixels.
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise BadImage("32-bit greyscale has no stated white; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.rint(grey / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _BACKGROUND), image)
    return image.convert("RGB")


def _centre(image: Image.Image, canvas: CanvasSpec) -> NDArray[np.uint8]:
    short = min(image.size)
    width, height = (canvas.resize * side // short for side in image.size)
    _check_pixels(width, height, "too elongated: resized")
    # round(), not //: torchvision rounds half pixels to even.
    left, top = (round((side - canvas.crop) / 2) for side in (width, height))
    square = image.resize((width, height), Image.Resampling.BICUBIC).crop(
        (left, top, left + canvas.crop, top + canvas.crop)
    )
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _check_pixels(width: int, height: int, complaint: str) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage(f"{complaint}: {width} x {height} pixels, at most {MAX_PIXELS} are accepted")

"""The one rule by which pixels of a file become RGB, for training and for prediction.

Whoever reads a photograph, of a prepared dataset or of a user, opens it with
`open_photograph` and converts it with `to_rgb`. So a network sees the colours in use that
it has seen in training. Pixels of RGB photographs without transparency stay as they are.

Legend: H W pixels.
"""

import contextlib
import functools
import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

FORMATS = (
    *("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "MPO", "AVIF", "JPEG2000"),
)
"""Formats that Pillow decodes itself. For others, such as EPS, it starts programs."""

_WHITE = (255, 255, 255, 255)
_STRIP = 1 << 22  # pixels that are laid on white at a time, in 4 bytes and copies

_ORIENTATION = 0x0112  # of EXIF


def open_photograph(encoded: bytes) -> Image.Image:
    """Returns the image in a file's bytes; its pixels are decoded later.

    Raises:
      ValueError: the bytes are no picture in one of FORMATS, or claim more pixels than
        Pillow's limit against decompression bombs. Its cause is Pillow's own error.
    """
    try:
        return Image.open(io.BytesIO(encoded), formats=_formats())
    # Pillow reports what is broken in many ways: OSError, SyntaxError, struct.error …
    except Exception as error:
        raise ValueError(
            f"no picture that can be read ({short_reason(error)})"
        ) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def short_reason(error: Exception) -> str:
    """Returns the first line of what Pillow reports, in words for a user."""
    text = str(error).split("\n")[0] or type(error).__name__
    # Pillow names the buffer that it reads from, which tells a user nothing.
    text = text.replace("cannot identify image file", "unknown format")
    return text.split(" <_io")[0]


def exif_orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 to 8; 1, upright, where none can be read."""
    # EXIF that can't be read says nothing; the pixels are whole all the same.
    with contextlib.suppress(Exception):
        found: Any = image.getexif().get(_ORIENTATION)
        if found in range(1, 9):
            return int(found)
    return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image in mode RGB, as viewers show it.

    Grey, palettes and CMYK become RGB without regard to colour profiles. Transparent
    pixels lie on white, whichever way the file marks them. Of 16 bits the upper 8 count.
    The orientation in EXIF is the caller's.

    Raises:
      ValueError: the pixels are floating-point numbers or integers of more than 16 bits,
        of which nobody knows what is white.
    """
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    # In strips, since several copies of a large photograph would be in memory otherwise.
    width, height = image.size
    rows = max(1, _STRIP // width)
    whole = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        strip = strip.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        white = Image.new("RGBA", strip.size, _WHITE)
        whole.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return whole


def upper_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    """Returns the upper 8 of 16 bits."""
    return (pixels.astype(np.uint16) >> 8).astype(np.uint8)


def _to_8_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """Grey of 16 bits, in whichever of Pillow's modes."""
    if pixels.dtype.kind == "f" or not 0 <= pixels.min() <= pixels.max() <= 65_535:
        raise ValueError(
            f"pixels of type {pixels.dtype} from {pixels.min()} to {pixels.max()}, of "
            "which nobody knows what is white; save it with 8 or 16 bits"
        )
    return upper_bits(pixels)

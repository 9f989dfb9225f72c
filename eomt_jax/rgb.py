"""Opens photographs and converts them to RGB, for training and prediction alike.

All photographs, of prepared datasets and of users, are opened by `open_photograph` and
converted by `to_rgb`, so that a network sees the same colours in prediction as in
training. Pixels of RGB photographs without transparency don't change.

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
"""Formats that Pillow decodes itself; for others, such as EPS, it starts programs."""

_WHITE = (255, 255, 255, 255)
_STRIP = 1 << 22  # pixels that are laid on white at a time, in 4 bytes and copies

_ORIENTATION = 0x0112  # of EXIF


def open_photograph(encoded: bytes) -> Image.Image:
    """Returns the image in a file's bytes; its pixels are decoded later.

    Raises:
      ValueError: the bytes are no picture in one of FORMATS, or claim more pixels than
        Pillow's limit against decompression bombs. Pillow's own error is its cause.
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
    """Returns those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def short_reason(error: Exception) -> str:
    """Returns the first line of what Pillow reports, in words for a user."""
    text = str(error).split("\n")[0] or type(error).__name__
    # Pillow names the buffer that it reads from, which tells a user nothing.
    text = text.replace("cannot identify image file", "unknown format")
    return text.split(" <_io")[0]


def exif_orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 to 8, or 1 (upright) if none can be read."""
    # EXIF that can't be read is ignored, since the pixels may still be whole.
    with contextlib.suppress(Exception):
        found: Any = image.getexif().get(_ORIENTATION)
        if found in range(1, 9):
            return int(found)
    return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image in mode RGB, with the colours that viewers show.

    Grey, palettes and CMYK become RGB without regard to colour profiles. Transparent
    pixels lie on white, whichever way the file marks them. The upper 8 of 16 bits are
    taken. The orientation in EXIF is left to the caller.

    Raises:
      ValueError: the pixels are floating-point numbers or integers of more than 16 bits,
        for which it isn't known which value is white.
    """
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    # It works in strips, since otherwise several copies of a large photograph would be
    # in memory.
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
    """Returns 8 bits from 16 bits of grey, in any of Pillow's modes."""
    if pixels.dtype.kind == "f" or not 0 <= pixels.min() <= pixels.max() <= 65_535:
        raise ValueError(
            f"pixels of type {pixels.dtype} from {pixels.min()} to {pixels.max()}, of "
            "which nobody knows what is white; save it with 8 or 16 bits"
        )
    return upper_bits(pixels)

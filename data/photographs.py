"""Photographs as their files are: readable to the end, and as large as annotated."""

import io
from collections.abc import Callable

from PIL import ImageOps

from eomt_jax.rgb import exif_orientation, open_photograph, short_reason

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png")

_JPEGS = ("JPEG", "MPO")  # phones' MPO: a JPEG with more of them behind it
_FORMATS = (*_JPEGS, "PNG")


def check_photograph(
    encoded: bytes, *, file: str, size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Decodes a photograph once.

    Args:
      encoded: bytes of its file.
      file: its name, for messages.
      size: (height, width) that its annotation says; None where it says nothing.

    Returns:
      Its own (height, width).

    Raises:
      ValueError: the bytes are no JPEG or PNG, end before it does, have more than 8 bits a
        channel, or are one of another size.
    """
    try:
        image = open_photograph(encoded)
    except ValueError as error:
        raise ValueError(f"{file} is {error}") from error
    if image.format not in _FORMATS:
        raise ValueError(f"{file} is a {image.format}: save it as JPEG or PNG")
    found = image.height, image.width
    if size is not None and found != tuple(size):
        raise ValueError(
            f"{file} has {found[0]} x {found[1]} pixels, but its annotation says "
            f"{size[0]} x {size[1]}"
        )
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{file} has more than 8 bits a channel (Pillow's mode {image.mode}): save "
            "it with 8"
        )
    # A JPEG at an eighth of its size is read to its end all the same, in less time.
    image.draft(None, (1, 1))
    try:
        image.load()
    except Exception as error:
        raise ValueError(f"{file} can't be decoded ({short_reason(error)})") from error
    return found


def stored_and_upright_size(
    encoded: bytes,
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(height, width) as stored, and as EXIF turns it; None where it can't be read."""
    try:
        image = open_photograph(encoded)
    except ValueError:
        return None
    is_turned = exif_orientation(image) >= 5
    height, width = image.height, image.width
    return (height, width), ((width, height) if is_turned else (height, width))


def turn_upright(
    encoded: bytes, *, size: tuple[int, int], note: Callable[[str], None]
) -> bytes:
    """A user's photograph as viewers and annotation tools show it.

    Cameras store turned photographs as they fell on the sensor and note in EXIF how to
    turn them. Most tools obey that note, some don't; after a quarter turn the
    annotation's size tells which did.

    Args:
      encoded: bytes of a JPEG or PNG.
      size: (height, width) that the annotation or mask has.
      note: called with what is done about the orientation, where there is one.

    Returns:
      The same bytes, or, of a photograph that had to be turned, new ones: a JPEG of
      quality 95, or PNG.
    """
    try:
        image = open_photograph(encoded)
        orientation = exif_orientation(image)
        is_annotated_as_stored = (
            orientation >= 5
            and image.width != image.height
            and image.size == (size[1], size[0])
        )
        if orientation == 1:
            return encoded
        if is_annotated_as_stored:
            note("photographs left as stored though EXIF says to turn them")
            return encoded
        note("photographs turned as their EXIF says")
        turned = io.BytesIO()
        if image.format in _JPEGS:
            ImageOps.exif_transpose(image).save(turned, "JPEG", quality=95)
        else:
            ImageOps.exif_transpose(image).save(turned, "PNG")
        return turned.getvalue()
    except (OSError, SyntaxError, ValueError):
        return encoded  # check_photograph says what is wrong with it

"""Photographs as their files are: readable to the end, and as large as annotated."""

import io
from collections.abc import Callable

from PIL import ImageOps

from eomt_jax.predict import photographs
from eomt_jax.rgb import exif_orientation, open_photograph, short_reason, to_rgb

PICTURE_ENDINGS = photographs.PICTURE_ENDINGS
_TURNED_BY_PILLOW = "TIFF"  # whenever one is opened
_JPEGS = ("JPEG", "MPO")  # phones' MPO: a JPEG with more of them behind it


class DamagedPhotographError(ValueError):
    """A photograph's file can't be decoded to its end."""


def read_file(read: Callable[[], bytes]) -> bytes:
    """Returns the bytes of a photograph's file, which `read` takes from its source.

    Raises:
      DamagedPhotographError: it raises ValueError, as where a checksum fails.
    """
    try:
        return read()
    except ValueError as error:
        raise DamagedPhotographError(str(error)) from error


def check_photograph(
    encoded: bytes, *, file: str, size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Decodes a photograph once.

    Args:
      encoded: bytes of its file, in one of rgb.FORMATS.
      file: its name, for messages.
      size: (height, width) that its annotation says; None where it says nothing.

    Returns:
      Its own (height, width).

    Raises:
      DamagedPhotographError: the bytes are no picture, or end before it does.
      ValueError: the picture has another size, or colours that are no RGB.
    """
    try:
        image = open_photograph(encoded)
    except ValueError as error:
        raise DamagedPhotographError(
            f"{file} is {error if encoded else 'empty'}"
        ) from error
    found = image.height, image.width
    if size is not None and found != tuple(size):
        raise ValueError(
            f"{file} has {found[0]} x {found[1]} pixels, but its annotation says "
            f"{size[0]} x {size[1]}"
        )
    # A JPEG at an eighth of its size is read to its end all the same, in less time.
    image.draft(None, (1, 1))
    try:
        image.load()
    except Exception as error:
        raise DamagedPhotographError(
            f"{file} can't be decoded ({short_reason(error)})"
        ) from error
    if image.mode.startswith(("I", "F")):
        try:
            to_rgb(image)
        except ValueError as error:
            raise ValueError(f"{file} has {error}") from error
    return found


def stored_and_upright_size(
    encoded: bytes,
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Returns (height, width) as stored and as EXIF turns it; None if unreadable."""
    try:
        image = open_photograph(encoded)
    except ValueError:
        return None
    is_turned = exif_orientation(image) >= 5 and image.format != _TURNED_BY_PILLOW
    height, width = image.height, image.width
    return (height, width), ((width, height) if is_turned else (height, width))


def turn_upright(
    encoded: bytes, *, size: tuple[int, int], note: Callable[[str], None]
) -> bytes:
    """Returns a user's photograph as viewers and annotation tools show it.

    Cameras store turned photographs as they fell on the sensor and note in EXIF how to
    turn them. Most tools obey that note, some don't; after a quarter turn the
    annotation's size tells which did.

    Args:
      encoded: bytes of its file.
      size: (height, width) that the annotation or mask has.
      note: called with what is done about the orientation, where there is one.

    Returns:
      The same bytes, or, of a photograph that had to be turned, new ones: a JPEG of
      quality 95, or PNG.
    """
    try:
        image = open_photograph(encoded)
        orientation = exif_orientation(image)
        if orientation == 1:
            return encoded
        is_annotated_as_stored = (
            orientation >= 5
            and image.format != _TURNED_BY_PILLOW
            and image.width != image.height
            and image.size == (size[1], size[0])
        )
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

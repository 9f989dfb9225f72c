"""Photographs as their files are: readable to the end, and as large as annotated."""

import io

from PIL import Image, ImageOps

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png")

_ORIENTATION = 0x0112  # of EXIF: 1 is upright, 5 to 8 are turned by a quarter

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
        image = Image.open(io.BytesIO(encoded))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is no picture that can be read ({error})") from error
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
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} can't be decoded ({error})") from error
    return found


def turn_upright(encoded: bytes, *, size: tuple[int, int]) -> bytes:
    """A user's photograph as viewers and annotation tools show it.

    Cameras store turned photographs as they fell on the sensor and note in EXIF how to
    turn them. Most tools obey that note, some don't; after a quarter turn the
    annotation's size tells which did.

    Args:
      encoded: bytes of a JPEG or PNG.
      size: (height, width) that the annotation or mask has.

    Returns:
      The same bytes, or, of a photograph that had to be turned, new ones: a JPEG of
      quality 95, or PNG.
    """
    try:
        image = Image.open(io.BytesIO(encoded))
        orientation = image.getexif().get(_ORIENTATION, 1)
        is_annotated_as_stored = (
            orientation >= 5
            and image.width != image.height
            and image.size == (size[1], size[0])
        )
        if orientation not in range(2, 9) or is_annotated_as_stored:
            return encoded
        turned = io.BytesIO()
        if image.format in _JPEGS:
            ImageOps.exif_transpose(image).save(turned, "JPEG", quality=95)
        else:
            ImageOps.exif_transpose(image).save(turned, "PNG")
        return turned.getvalue()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return encoded  # check_photograph says what is wrong with it

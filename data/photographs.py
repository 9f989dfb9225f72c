"""Photographs as their files are: readable to the end, and as large as annotated."""

import io

from PIL import Image


def open_picture(encoded: bytes, *, size: tuple[int, int], file: str) -> Image.Image:
    """A picture, not yet decoded.

    Args:
      encoded: bytes of its file.
      size: (height, width) that its annotation says.
      file: its name, for messages.

    Raises:
      ValueError: the bytes are no picture, or one of another size.
    """
    try:
        image = Image.open(io.BytesIO(encoded))
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is no picture ({error})") from error
    if image.size != (size[1], size[0]):
        raise ValueError(
            f"{file} has {image.height} x {image.width} pixels, but its annotation "
            f"says {size[0]} x {size[1]}"
        )
    return image


def check_photograph(encoded: bytes, *, size: tuple[int, int], file: str) -> None:
    """Decodes a photograph once; see `open_picture`.

    Raises:
      ValueError: also where the file is damaged or ends before the photograph does.
    """
    image = open_picture(encoded, size=size, file=file)
    # A JPEG at an eighth of its size is read to its end all the same, in less time.
    image.draft(None, (1, 1))
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} can't be decoded ({error})") from error

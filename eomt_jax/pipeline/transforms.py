"""Decodes, flips, resizes, pads and crops images for augmentation and evaluation.

Photographs are resized by Pillow, whose bilinear filter widens when it shrinks an image
(antialiasing); label maps are resized by picking source pixels. A segment id map is cut
and resized in one operation, so it never exists at a size beyond the crop's.
"""

import dataclasses
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from eomt_jax.rgb import open_photograph, short_reason, to_rgb
from eomt_jax.types import Array

Number = TypeVar("Number", int, Array)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The place of a photograph in a crop of S × S pixels.

    Attributes:
      flip: the photograph is mirrored left to right, before everything else.
      resized: (height, width) after the scale jitter.
      offset: (y, x) of the crop in the resized photograph; 0 on a side that is not
        longer than the crop.
      crop_size: S.
    """

    flip: bool
    resized: tuple[int, int]
    offset: tuple[int, int]
    crop_size: int

    @property
    def content_size(self) -> tuple[int, int]:
        """(height, width) of the crop's part that shows the photograph."""
        height, width = self.resized
        return min(height, self.crop_size), min(width, self.crop_size)


def draw_geometry(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    crop_size: int,
    scale_range: tuple[float, float],
) -> Geometry:
    """Draws a flip of probability ½, a scale in the range, and the place of the crop.

    A side never gets shorter than one pixel (the release would make a long thin strip
    0 pixels wide and fail).

    Args:
      rng: gives four numbers, always.
      size: (height, width) of the photograph.
      crop_size: S.
      scale_range: of the factor; 1 is the size that just fits S × S.
    """
    height, width = size
    coin, factor, *place = rng.random(4)
    low, high = scale_range
    scale = (low + (high - low) * factor) * min(crop_size / height, crop_size / width)
    resized = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = (
        int(p * (max(side - crop_size, 0) + 1))
        for p, side in zip(place, resized, strict=True)
    )
    return Geometry(
        flip=bool(coin < 0.5), resized=resized, offset=(top, left), crop_size=crop_size
    )


def crop_map(
    pixels: Integer[np.ndarray, "H W *rest"], geometry: Geometry
) -> Integer[np.ndarray, "h w *rest"]:
    """Returns the crop without its padding, by nearest neighbour.

    Pixel i of n shows source pixel floor(i · in / n), computed in whole numbers. (In
    float32, as PyTorch computes it, some are one lower.)
    """
    height, width = pixels.shape[:2]
    rows = _source_pixels(height, geometry.resized[0], geometry.offset[0], geometry)
    columns = _source_pixels(width, geometry.resized[1], geometry.offset[1], geometry)
    if geometry.flip:
        columns = width - 1 - columns
    return pixels.take(rows, axis=0).take(columns, axis=1)


def _source_pixels(in_size: int, out_size: int, start: int, geometry: Geometry):
    stop = min(out_size, start + geometry.crop_size)
    return np.arange(start, stop) * in_size // out_size


def crop_image(image: Image.Image, geometry: Geometry) -> UInt8[np.ndarray, "S S 3"]:
    """Flips, resizes with antialiasing, crops, and pads with 0 at bottom and right.

    Only the part that the crop shows is resized; it is mirrored last. Pillow takes the
    borders of that part as float32 numbers, by which 0.3 % of a photograph's values
    differ by 1 or 2 from resizing the whole photograph before cropping.
    """
    height, width = geometry.resized
    top, left = geometry.offset
    content_h, content_w = geometry.content_size
    if geometry.flip:
        left = width - left - content_w
    box = (
        left * image.width / width,
        top * image.height / height,
        (left + content_w) * image.width / width,
        (top + content_h) * image.height / height,
    )
    image = _resize(image, (content_h, content_w), box)
    if geometry.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return pad_image(image, geometry.crop_size)


def fit_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns the largest (height, width) in size × size, rounded half to even."""
    factor = min(size / height, size / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def fit_image(image: Image.Image, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Returns the image, as large as fits, in the top left of a black square."""
    return pad_image(_resize(image, fit_size(image.height, image.width, size)), size)


def cover_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns the (height, width) whose short side is `size`, rounded half to even."""
    factor = max(size / height, size / width)
    return round(height * factor), round(width * factor)


def num_windows(long_side: Number, size: int) -> Number:
    """Returns how many windows of `size` cover a side; takes JAX arrays too."""
    return -(-long_side // size)


def max_windows(aspect_ratio: float, size: int) -> int:
    """Returns the windows of a photograph with the given ratio, long by short side."""
    # The ratio is made a little larger, which costs a window at most; a ratio that was
    # rounded down would lose pixels.
    return num_windows(round(size * aspect_ratio * (1 + 1e-9)), size)


def window_start(index: Number, long_side: Number, size: int) -> Number:
    """Returns the first pixel of a window; the last window ends with the long side.

    Windows overlap evenly. The pixel is computed in whole numbers, and JAX arrays are
    taken too. (The release truncates a product of floats, by which some windows begin a
    pixel earlier.)
    """
    num_gaps: Any = num_windows(long_side, size) - 1
    return index * (long_side - size) // (num_gaps + (num_gaps == 0))


def cut_windows(
    image: Image.Image, size: int, count: int
) -> UInt8[np.ndarray, "N S S 3"]:
    """Resizes an image to cover `size`, and cuts windows along its long side.

    Args:
      image: the photograph.
      size: S.
      count: N, no fewer than the windows of this photograph; the others are 0.
    """
    height, width = cover_size(image.height, image.width, size)
    pixels = np.asarray(_resize(image, (height, width)))
    windows = np.zeros((count, size, size, 3), np.uint8)
    long_side = max(height, width)
    for j in range(num_windows(long_side, size)):
        start = window_start(j, long_side, size)
        top, left = (start, 0) if height > width else (0, start)
        windows[j] = pixels[top : top + size, left : left + size]
    return windows


def pad_image(image: Image.Image, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Returns the image in the top left of a black square."""
    out = np.zeros((size, size, 3), np.uint8)
    out[: image.height, : image.width] = np.asarray(image)
    return out


def decode_image(
    encoded: bytes,
    *,
    size: tuple[int, int] | None = None,
    resized: tuple[int, int] | None = None,
) -> Image.Image:
    """Returns a photograph in RGB, whatever colours the file has (see rgb.to_rgb).

    An orientation in the file's EXIF is not applied: the published masks were drawn on
    the pixels as they are stored.

    Args:
      encoded: the file.
      size: (height, width) of its segments.
      resized: (height, width) that it will be resized to. A JPEG of 4 times that or
        more is decoded at ½, ¼ or ⅛ of its size, rounded up, and no smaller than twice
        `resized`, which leaves the antialiasing to the resizing.

    Raises:
      ValueError: the bytes are no image, or end before the image does, or show one of
        another size.
    """
    try:
        image = open_photograph(encoded)
        found = image.height, image.width
        if resized is not None:
            image.draft("RGB", (2 * resized[1], 2 * resized[0]))
        image.load()
        image = to_rgb(image)
    # Pillow reports what is broken in many ways: OSError, SyntaxError, struct.error …
    except Exception as error:
        raise ValueError(f"{short_reason(error)} ({len(encoded)} bytes)") from error
    if size is not None and found != size:
        raise ValueError(
            f"it has {found[0]}×{found[1]} pixels, its segments {size[0]}×{size[1]}"
        )
    return image


def _resize(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Resizes to (height, width); `box` (left, top, right, bottom) takes a part."""
    height, width = size
    return image.resize((width, height), Image.Resampling.BILINEAR, box)

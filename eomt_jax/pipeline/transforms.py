"""Geometry of the augmentation and of evaluation: decode, flip, resize, pad, crop.

Photographs are resized by Pillow, whose bilinear filter widens when it shrinks
(antialiasing); label maps by picking source pixels. A segment id map is cut and
resized in one go, so it never exists at a size beyond the crop's.
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
    """Where a photograph lands in a crop of S × S pixels.

    Attributes:
      flip: mirrored left to right, before everything else.
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
    """Flip with probability ½, scale jitter, random crop.

    A side never gets shorter than one pixel (the release would make a long thin strip
    0 pixels wide and fail).

    Args:
      rng: consumed by four numbers, always.
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
    """The content of the crop, without its padding; nearest neighbour.

    Pixel i of n shows source pixel floor(i · in / n), in whole numbers (in float32, as
    PyTorch has it, some land one lower).
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
    """Flip, resize with antialiasing, cut out, fill up with 0 at bottom and right.

    Only what the crop shows is resized, and mirrored last. Pillow takes the part shown
    as float32 numbers, by which few values (0.3 % of photographs') come out 1 or 2 off
    those of a photograph that is resized whole and then cut.
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
    """(height, width) that just fits size × size; Python's round, half to even."""
    factor = min(size / height, size / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def fit_image(image: Image.Image, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """For evaluation: as large as fits, in the top left, the rest 0."""
    return pad_image(_resize(image, fit_size(image.height, image.width, size)), size)


def cover_size(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) whose short side is `size`; Python's round, half to even."""
    factor = max(size / height, size / width)
    return round(height * factor), round(width * factor)


def num_windows(long_side: Number, size: int) -> Number:
    """Square windows of `size` that cover a side as long as that; on the device too."""
    return -(-long_side // size)


def max_windows(aspect_ratio: float, size: int) -> int:
    """Windows of the longest and thinnest photograph, at its long over short side."""
    # A ratio a little larger costs a window at most; one rounded down loses pixels.
    return num_windows(round(size * aspect_ratio * (1 + 1e-9)), size)


def window_start(index: Number, long_side: Number, size: int) -> Number:
    """Where a window begins: evenly overlapping, the last one ends with the image.

    In whole numbers, on the device too. (The release truncates a product of floats,
    by which some windows begin a pixel earlier.)
    """
    num_gaps: Any = num_windows(long_side, size) - 1
    return index * (long_side - size) // (num_gaps + (num_gaps == 0))


def cut_windows(
    image: Image.Image, size: int, count: int
) -> UInt8[np.ndarray, "N S S 3"]:
    """For evaluation of semantics: resized to cover `size`, cut along the long side.

    Args:
      image: the photograph.
      size: S.
      count: N, no fewer than the windows of this photograph; the rest is 0.
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
    """The image in the top left of a black square."""
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
      size: (height, width) that its segments have.
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
            f"{found[0]}×{found[1]} pixels, its segments {size[0]}×{size[1]}"
        )
    return image


def _resize(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """To (height, width); of the part (left, top, right, bottom) where one is given."""
    height, width = size
    return image.resize((width, height), Image.Resampling.BILINEAR, box)

"""Class names on a picture of segments, placed so that none hides another.

Legend: H W pixels, n segments in one picture.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float, Integer
from PIL import Image, ImageDraw, ImageFont, features
from scipy import ndimage

_MIN_AREA = 1 / 600
"""Of the picture; smaller segments get colour and outline but no name."""
_MAX_TRIALS = 8
_MARGIN = 2
"""Pixels between a plate and the picture's border."""


class Box(NamedTuple):
    """Sides of a plate in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def write_names(
    picture: Image.Image,
    index: Integer[np.ndarray, "H W"],
    names: Sequence[str],
    colors: Float[np.ndarray, "n 3"],
) -> None:
    """Writes each name on a dark plate of its segment's colour.

    Large segments choose first. Tiny segments, and those without a free place, go
    without a name.

    Args:
      picture: is drawn on.
      index: which segment each pixel belongs to, -1 for none.
      names: of the segments.
      colors: of the segments, 0 to 255.
    """
    draw = ImageDraw.Draw(picture)
    font = load_font(max(13, max(index.shape) // 30))
    pad = font.size / 3
    areas = np.bincount(index[index >= 0], minlength=len(names))
    taken: list[Box] = []
    for i in np.argsort(-areas, kind="stable"):
        if areas[i] < _MIN_AREA * index.size:
            break
        name = str(names[i])
        left, top, right, bottom = draw.textbbox((0, 0), name, font, anchor="mm")
        half_width, half_height = (right - left) / 2 + pad, (bottom - top) / 2 + pad
        box = _free_box(index == i, half_width, half_height, taken)
        if box is None:
            continue
        taken.append(box)
        red, green, blue = (int(0.45 * channel) for channel in colors[i])
        draw.rounded_rectangle(box, radius=pad, fill=(red, green, blue))
        center = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
        draw.text(center, name, (255, 255, 255), font, anchor="mm")


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, `size` pixels high, so that pictures look alike anywhere."""
    if not features.check("freetype2"):
        raise ValueError(
            "this Pillow was built without FreeType and can't write names; install "
            "the one from PyPI"
        )
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _free_box(
    mask: Bool[np.ndarray, "H W"],
    half_width: float,
    half_height: float,
    taken: Sequence[Box],
) -> Box | None:
    """Where a plate fits best on a segment, if anywhere.

    Deepest inside the segment first, the next deepest where that place is taken; never
    past the picture's border.
    """
    height, width = mask.shape
    padded: np.ndarray = ndimage.distance_transform_edt(np.pad(mask, 1))  # pyright: ignore
    depth = padded[1:-1, 1:-1]
    for _ in range(_MAX_TRIALS):
        deepest = int(np.argmax(depth))
        y, x = divmod(deepest, width)
        if depth[y, x] <= 0:
            return None
        mid_x = _clamp(x, half_width + _MARGIN, width)
        mid_y = _clamp(y, half_height + _MARGIN, height)
        box = Box(
            left=mid_x - half_width,
            top=mid_y - half_height,
            right=mid_x + half_width,
            bottom=mid_y + half_height,
        )
        clashes = [other for other in taken if _overlap(box, other)]
        if not clashes:
            return box
        for other in clashes:
            # A plate centred in this rectangle would clash again.
            rows = slice(
                max(0, int(other.top - half_height)),
                max(0, int(other.bottom + half_height) + 1),
            )
            columns = slice(
                max(0, int(other.left - half_width)),
                max(0, int(other.right + half_width) + 1),
            )
            depth[rows, columns] = 0
    return None


def _clamp(center: int, half: float, length: int) -> float:
    """The centre moved so that half of a plate fits on either side."""
    return min(max(center + 0.5, half), max(length - half, half))


def _overlap(one: Box, other: Box) -> bool:
    return (
        one.left < other.right
        and other.left < one.right
        and one.top < other.bottom
        and other.top < one.bottom
    )

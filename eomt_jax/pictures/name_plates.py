"""Class names on a picture of segments, placed so that none hides another.

Legend: H W pixels of the picture, h w cells of the grid, n segments in one picture.
"""

import contextlib
import math
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont, features
from scipy import ndimage

from eomt_jax.pictures.palette import darken

_MIN_AREA = 1 / 600
"""Segments of a smaller share of the picture get colour and outline but no name."""
_MAX_HIDDEN = 1.2
_MAX_AWAY = 2.5
"""A name that would hide more than this, in whole segments, or stand farther from its
segment, in heights of its plate, isn't written."""
_MARGIN = 2
"""Pixels between a plate and the picture's border, and between two plates."""
_FONT_SIZES, _FEW, _MANY = (1 / 30, 1 / 40), 12, 30
"""Letters have the first share of the picture's visual side with few names, the second
with many; both are legible on a phone."""
_MAX_COVERED = 1 / 4
"""Plates cover at most this share of the picture; further names aren't written."""
_SHORTEST = 6
"""A name of which fewer letters fit isn't written."""
_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf")


class Box(NamedTuple):
    """Sides of a plate in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def write_names(
    picture: Image.Image,
    index: Integer[np.ndarray, "h w"],
    names: Sequence[str],
    colors: UInt8[np.ndarray, "n 3"],
) -> None:
    """Writes each name on a dark plate of its segment's colour.

    Large segments choose first. Tiny segments, those without a free place, and those
    whose plate would leave too little of the picture to be seen go without a name.

    Args:
      picture: is drawn on.
      index: which segment each cell of the picture belongs to, -1 for none; a few
        hundred cells a side are enough.
      names: of the segments; cut where they are too long for the picture.
      colors: of the segments.
    """
    areas = np.bincount(index[index >= 0], minlength=len(names))
    named = areas >= _MIN_AREA * index.size
    scale = np.interp(named.sum(), (_FEW, _MANY), _FONT_SIZES)
    size = max(13, round(visual_side(picture.size) * scale))
    # Each cell counts as a share of its segment, so that small segments are spared.
    shares = np.append(1 / np.maximum(areas, 1), 0.0)[index]
    places = _Places(picture.size, shares)
    uncovered = _MAX_COVERED * picture.width * picture.height
    for i in np.argsort(-areas, kind="stable"):
        if not named[i]:
            break
        plate = _write_plate(str(names[i]), size, colors[i], picture.width)
        if plate is None or plate.width * plate.height > uncovered:
            continue
        box = places.find(index == i, plate.size)
        if box is not None:
            picture.paste(plate, (round(box.left), round(box.top)), plate)
            uncovered -= plate.width * plate.height


def visual_side(picture_size: tuple[int, int]) -> float:
    """Returns a picture's long side, or a panorama's as if it had its area in 16:9.

    Letters and lines grow with it, so that the same names cover the same share.
    """
    width, height = picture_size
    return min(float(max(width, height)), math.sqrt(width * height * 16 / 9))


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Loads Pillow's own font, so that pictures look alike anywhere.

    Args:
      size: height in pixels.

    Raises:
      ValueError: this Pillow can't load fonts.
    """
    if not features.check("freetype2"):
        raise ValueError(
            "this Pillow was built without FreeType and can't write names; install "
            "the one from PyPI"
        )
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def legible(name: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """Returns a name and a font that has its letters.

    Pillow's own font has the letters of ASCII alone. For others it is one of the
    system's; where there is none, the name loses its accents and all other letters.
    """
    if not name.isascii():
        for file in _SYSTEM_FONTS:
            with contextlib.suppress(OSError):
                return name, ImageFont.truetype(file, size)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return plain or "?", load_font(size)


def shorten(
    name: str,
    font: ImageFont.FreeTypeFont,
    max_width: float,
    shortest: int = _SHORTEST,
) -> str | None:
    """Cuts a name at its end until it fits; None if too few of its letters do.

    Args:
      name: any text.
      font: has its letters.
      max_width: in pixels.
      shortest: the least number of letters.
    """
    text, kept = name, len(name)
    while font.getlength(text) > max_width:
        kept -= 1
        if kept < shortest:
            return None
        text = f"{name[:kept].rstrip()}…"
    return text


def _write_plate(
    name: str, size: int, color: UInt8[np.ndarray, " 3"], max_width: int
) -> Image.Image | None:
    """Draws a name in white on a rounded plate; None if not even its beginning fits.

    Args:
      name: is cut at its end until the plate fits.
      size: height of the letters in pixels.
      color: has the plate's hue.
      max_width: width of the picture in pixels.
    """
    name, font = legible(name, size)
    pad = 0.36 * size
    text = shorten(name, font, max_width - 2 * pad - 2 * _MARGIN)
    if text is None:
        return None
    width, height = round(font.getlength(text) + 2 * pad), round(1.36 * size)
    # The shape is drawn four times as large and shrunk, so that its corners are round.
    shape = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(shape).rounded_rectangle(
        (0, 0, 4 * width - 1, 4 * height - 1), radius=1.3 * size, fill=255
    )
    ground = tuple(darken(color).tolist())
    plate = Image.new("RGB", (width, height), ground)
    ImageDraw.Draw(plate).text(
        (width / 2, height / 2 + 0.34 * size), text, (255, 255, 255), font, anchor="ms"
    )
    plate.putalpha(shape.reduce(4))
    return plate


class _Places:
    """Keeps the places of plates and finds free ones."""

    def __init__(self, picture_size: tuple[int, int], shares: Float[np.ndarray, "h w"]):
        """Prepares an empty picture.

        Args:
          picture_size: (width, height) in pixels.
          shares: the share that each cell has in its segment.
        """
        self._width, self._height = picture_size
        self._cells = shares.shape
        self._shares = _summed(shares)
        self._taken: list[Box] = []

    def find(
        self, mask: Bool[np.ndarray, "h w"], plate_size: tuple[int, int]
    ) -> Box | None:
        """Finds where a plate hides least and still belongs to its segment.

        It is deep inside a large segment, and over, under or beside one that the plate
        would hide.

        Args:
          mask: the segment.
          plate_size: (width, height) in pixels.

        Returns:
          None where no place is free; else a box that is taken from now on.
        """
        width, height = plate_size
        rows, columns = self._cells
        cell = self._height / rows, self._width / columns
        # A plate may be centred on any cell, but is moved to lie inside the picture.
        y = _clamp((np.arange(rows) + 0.5) * cell[0], height / 2, self._height)
        x = _clamp((np.arange(columns) + 0.5) * cell[1], width / 2, self._width)
        if min(y.min() - height / 2, x.min() - width / 2) < 0:
            return None
        cost = self._cost(mask, y, x, plate_size)
        for box in self._taken:
            near_y = (y + height / 2 > box.top) & (y - height / 2 < box.bottom)
            near_x = (x + width / 2 > box.left) & (x - width / 2 < box.right)
            cost[near_y[:, None] & near_x] = np.inf
        row, column = np.unravel_index(np.argmin(cost), cost.shape)
        if np.isinf(cost[row, column]):
            return None
        left, top = round(x[column] - width / 2), round(y[row] - height / 2)
        box = Box(left, top, left + width, top + height)
        self._taken.append(
            Box(*np.add(box, (-_MARGIN, -_MARGIN, _MARGIN, _MARGIN)).tolist())
        )
        return box

    def _cost(
        self,
        mask: Bool[np.ndarray, "h w"],
        y: Float[np.ndarray, " h"],
        x: Float[np.ndarray, " w"],
        plate_size: tuple[int, int],
    ) -> Float[np.ndarray, "h w"]:
        """Says how bad each place is for a plate; infinite where it may not stand."""
        width, height = plate_size
        rows, columns = self._cells
        cell = self._height / rows, self._width / columns
        window = (
            _edges(y, height, cell[0]).clip(0, rows),
            _edges(x, width, cell[1]).clip(0, columns),
        )
        hidden = _window_sums(self._shares, *window)
        inside = _window_sums(_summed(mask), *window) * (cell[0] * cell[1])
        centers = np.ix_((y / cell[0]).astype(int), (x / cell[1]).astype(int))
        depth = _distance(np.pad(mask, 1))[1:-1, 1:-1][centers]
        # The unit is the plate's height; one over or under the segment is 0.5 away.
        away = _distance(~mask)[centers] * (cell[0] / height)
        cost = (
            hidden
            + 0.4 * (1 - np.minimum(inside / (width * height), 1))
            + 0.3 * (1 - depth / depth.max(initial=1))
            + 0.6 * np.maximum(away - 0.8, 0)
        )
        return np.where((hidden > _MAX_HIDDEN) | (away > _MAX_AWAY), np.inf, cost)


def _clamp(
    centers: Float[np.ndarray, " n"], half: float, length: int
) -> Float[np.ndarray, " n"]:
    """Moves the centres so that half of a plate fits on either side."""
    return np.clip(centers, half + _MARGIN, max(length - half - _MARGIN, 0))


def _distance(mask: Bool[np.ndarray, "h w"]) -> Any:
    """Counts the cells to where the mask ends, along rows and columns."""
    return ndimage.distance_transform_cdt(mask, "taxicab")


def _summed(values: np.ndarray) -> Float[np.ndarray, "h1 w1"]:
    """Sums the values of all cells above and left of each corner."""
    return np.pad(np.cumsum(np.cumsum(values, 0, dtype=float), 1), ((1, 0), (1, 0)))


def _edges(
    centers: Float[np.ndarray, " n"], length: int, cell: float
) -> Integer[np.ndarray, "2 n"]:
    """Finds the first cell of each plate, and the one after its last, by its centre."""
    edges = np.stack([centers - length / 2, centers + length / 2]) / cell
    return np.round(edges).astype(int)


def _window_sums(
    summed: Float[np.ndarray, "h1 w1"],
    y: Integer[np.ndarray, "2 h"],
    x: Integer[np.ndarray, "2 w"],
) -> Float[np.ndarray, "h w"]:
    """Sums the cells between two edges along either axis."""
    return np.diff(np.diff(summed[y], axis=0)[0][:, x], axis=1)[:, 0]

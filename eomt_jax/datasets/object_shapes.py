"""Outlines of the shapes that annotation tools draw, and objects of several shapes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_codec

from eomt_jax.datasets.coco_objects import MIN_POLYGON, Segmentation

# Corners of an ellipse; at a radius of 1,000 pixels they stay within a third of a pixel.
_NUM_CORNERS = 128


def rectangle(
    left: float, top: float, right: float, bottom: float, *, degrees: float = 0.0
) -> np.ndarray:
    """Returns the corners x, y, x, y, … of a rectangle, turned clockwise by `degrees`."""
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return _turn(corners, corners.mean(0), degrees)


def ellipse(
    center: tuple[float, float], radii: tuple[float, float], *, degrees: float = 0.0
) -> np.ndarray:
    """Returns corners x, y, x, y, … on an ellipse, turned clockwise by `degrees`.

    Args:
      center: (x, y).
      radii: along x and along y, before it is turned.
      degrees: of the turn.
    """
    angles = np.linspace(0, 2 * math.pi, _NUM_CORNERS, endpoint=False)
    offsets = np.stack([np.cos(angles), np.sin(angles)], -1) * radii
    return _turn(np.array(center) + offsets, np.array(center), degrees)


def _turn(corners: np.ndarray, center: np.ndarray, degrees: float) -> np.ndarray:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    turn = np.array([(cosine, sine), (-sine, cosine)])  # y points downwards
    return ((corners - center) @ turn + center).ravel()


def paste(mask: np.ndarray, *, left: int, top: int, size: tuple[int, int]) -> Any:
    """Returns run lengths of a photograph with a smaller mask in it.

    Args:
      mask: bool [height, width]; what lies outside of the photograph is cut off.
      left: column of the photograph that the mask's first one is.
      top: row of the photograph that the mask's first one is.
      size: (height, width) of the photograph.
    """
    whole = np.zeros(size, np.uint8, order="F")
    rows, columns = np.nonzero(mask)
    rows, columns = rows + top, columns + left
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    whole[rows[inside], columns[inside]] = 1
    return mask_codec.encode(whole)


def join(
    parts: Sequence[Any], size: tuple[int, int]
) -> tuple[Segmentation | None, int]:
    """Returns the segmentation of an object, and how many polygons have no inside.

    Args:
      parts: corners x, y, x, y, … of polygons, and run lengths as of `paste`.
      size: (height, width) of the photograph; any where all parts are polygons.
    """
    polygons: list[Any] = [part for part in parts if isinstance(part, np.ndarray)]
    whole = [polygon for polygon in polygons if polygon.size >= MIN_POLYGON]
    masks = [part for part in parts if not isinstance(part, np.ndarray)]
    num_flat = len(polygons) - len(whole)
    if not masks:
        return tuple(whole) or None, num_flat
    if whole:
        masks += mask_codec.frPyObjects(whole, *size)
    merged: Any = mask_codec.merge(masks)
    return merged, num_flat

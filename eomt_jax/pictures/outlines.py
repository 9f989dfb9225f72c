"""Draws smooth outlines of segments from their masks alone.

Legend: H W pixels of the photograph, h w of the grid, n segments of a photograph,
m of them shown.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image, ImageFilter
from scipy import ndimage, special

from eomt_jax.postprocess.segmentation import Segmentation

_HIDDEN = 0.35
"""Strength of an outline where a smaller segment lies over it."""
_SPECK = 1 / 3000
"""Islands of a segment and gaps of a smaller share of the picture get no outline."""


@dataclasses.dataclass(frozen=True)
class Outlined:
    """Segments on a grid, and their outlines.

    Attributes:
      index: which segment shows on each pixel, -1 where none does.
      lines: strength of the outlines, 0 to 255.
    """

    index: Integer[np.ndarray, "h w"]
    lines: UInt8[np.ndarray, "h w"]


def outline_segments(
    segmentation: Segmentation,
    shown: Integer[np.ndarray, " m"],
    *,
    grid: tuple[int, int],
    line_width: float,
) -> Outlined:
    """Finds segments and draws their outlines on a grid.

    Each segment is blurred a little. Where two segments meet, the stronger one shows,
    and the difference of their strengths says how far away their border is: a line
    drawn from it is smooth, without the corners of pixels, and specks are gone.

    Args:
      segmentation: segments without a pixel are ignored.
      shown: the segments to draw.
      grid: (height, width) of the result, in the photograph's proportions.
      line_width: width of the outlines in pixels of the grid; 0 draws none.
    """
    enlarged = max(grid) / max(segmentation.size)
    # The blur must be so wide that an edge still rises where the line ends.
    blur = max(0.75, 0.9 * enlarged, (line_width + 1) / 3.2)
    strength = _line_strength(line_width, blur)
    if segmentation.id_map is not None:
        kept = np.zeros(len(segmentation.labels) + 1, int)
        kept[shown + 1] = shown + 1
        id_map = kept[pick_nearest(segmentation.id_map, grid)]
        outlined = _outline_map(id_map, blur, strength)
    else:
        assert segmentation.masks is not None
        masks = [pick_nearest(segmentation.masks[i], grid) for i in shown]
        outlined = _outline_masks(masks, shown, grid, blur, strength)
    outlined.lines[_specks(outlined.index)] = 0
    return outlined


def pick_nearest(
    values: np.ndarray, grid: tuple[int, int]
) -> Integer[np.ndarray, "h w"] | Bool[np.ndarray, "h w"]:
    """Resizes values to the grid, each pixel with the nearest value."""
    if values.shape == grid:
        return values
    rows, columns = (
        (np.arange(wanted) + 0.5) * length // wanted
        for wanted, length in zip(grid, values.shape)
    )
    return values[rows.astype(int)[:, None], columns.astype(int)]


def _outline_map(
    id_map: Integer[np.ndarray, "h w"],
    blur: float,
    strength: UInt8[np.ndarray, " 256"],
) -> Outlined:
    """Outlines segments that don't overlap, and the pixels of no segment."""
    index = np.full(id_map.shape, -1, np.int16)
    best = np.zeros(id_map.shape, np.uint8)
    second = best.copy()
    for segment, box in enumerate(ndimage.find_objects(id_map + 1), start=-1):
        if box is None:
            continue
        box = _widen(box, blur)
        soft = _soften(id_map[box] == segment + 1, blur)
        index[box][soft > best[box]] = segment
        second[box] = np.maximum(second[box], np.minimum(best[box], soft))
        best[box] = np.maximum(best[box], soft)
    return Outlined(index=index, lines=strength[best - second])


def _outline_masks(
    masks: Sequence[Bool[np.ndarray, "h w"]],
    segments: Integer[np.ndarray, " m"],
    grid: tuple[int, int],
    blur: float,
    strength: UInt8[np.ndarray, " 256"],
) -> Outlined:
    """Outlines segments that may overlap.

    Small ones lie over large ones, whose edges show through.
    """
    index = np.full(grid, -1, np.int16)
    lines = np.zeros(grid, np.uint8)
    hidden = lines.copy()
    areas = np.array([np.count_nonzero(mask) for mask in masks], int)
    for i in np.argsort(-areas, kind="stable"):
        if not areas[i]:
            break
        box = _widen(_bounding_box(masks[i]), blur)
        soft = _soften(masks[i][box], blur)
        rest = 255 - soft
        edge = strength[np.maximum(soft, rest) - np.minimum(soft, rest)]
        index[box][soft > 127] = segments[i]
        lines[box] = np.where(soft > 127, edge, np.maximum(lines[box], edge))
        hidden[box] = np.maximum(hidden[box], edge)
    lines = np.maximum(lines, (_HIDDEN * hidden).astype(np.uint8))
    return Outlined(index=index, lines=lines)


def _specks(index: Integer[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Finds pixels at tiny islands and gaps, but not on borders that remain without.

    A segment's largest part is no island, however small.
    """
    step = -(-max(index.shape) // 480)
    coarse = index[::step, ::step]
    specks = np.zeros(coarse.shape, bool)
    for segment, box in enumerate(ndimage.find_objects(coarse + 2), start=-1):
        if box is None:
            continue
        labeled: Any = ndimage.label(coarse[box] == segment)
        areas = np.bincount(labeled[0].ravel())
        small = areas < _SPECK * coarse.size
        small[0] = False
        if segment >= 0:
            small[1 + np.argmax(areas[1:])] = False
        specks[box] |= small[labeled[0]]
    if specks.any():
        nearest: Any = ndimage.distance_transform_edt(
            specks, return_distances=False, return_indices=True
        )
        calm = coarse[tuple(nearest)]
        borders = ndimage.maximum_filter(calm, 3) != ndimage.minimum_filter(calm, 3)
        specks = ndimage.maximum_filter(specks, 3) & ~borders
    return pick_nearest(specks, index.shape)


def _bounding_box(mask: Bool[np.ndarray, "h w"]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _widen(box: tuple[slice, slice], blur: float) -> tuple[slice, slice]:
    """Widens a box by the distance that the blur spreads."""
    room = int(np.ceil(4 * blur))
    rows, columns = box
    return (
        slice(max(0, rows.start - room), rows.stop + room),
        slice(max(0, columns.start - room), columns.stop + room),
    )


def _soften(mask: Bool[np.ndarray, "h w"], blur: float) -> UInt8[np.ndarray, "h w"]:
    """Blurs a mask to values of 0 to 255, with half of 255 at its edge."""
    image = Image.fromarray(255 * mask.astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur)))


def _line_strength(line_width: float, blur: float) -> UInt8[np.ndarray, " 256"]:
    """Returns an outline's strength by the difference of two blurred segments."""
    if not line_width:
        return np.zeros(256, np.uint8)
    # A straight edge that is blurred has the normal distribution of the distance.
    distance = blur * special.ndtri(0.5 + np.arange(256) / 510)
    return (255 * np.clip(line_width / 2 + 0.5 - distance, 0, 1)).astype(np.uint8)

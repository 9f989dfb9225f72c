"""A photograph under its segments: coloured, outlined, and labelled with class names.

Everything here runs on the host, on NumPy arrays and Pillow images.
Legend: H W pixels, n segments in one picture.
"""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageFilter
from scipy import ndimage

from eomt_jax.inference.name_plates import write_names
from eomt_jax.inference.segmentation import Segmentation
from eomt_jax.types import ClassInfo, DatasetInfo

_OPACITY = 0.6
_MIN_REGION = 1 / 60
"""Of the picture; smaller further regions of stuff go without a name."""


def draw_segmentation(
    image: UInt8[np.ndarray, "H W 3"],
    segmentation: Segmentation,
    info: DatasetInfo,
    *,
    long_side: int | None = None,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """A photograph under its segments.

    Stuff has its class's colour, things a shade of their own each; names stand where a
    segment is widest, those of stuff on each large region. What belongs to no segment is
    hatched in grey. Of segments that may overlap small ones lie over large ones, with
    their scores, and the photograph stays as it is around them.

    Args:
      image: RGB.
      segmentation: of the image's size; segments without a pixel are ignored.
      info: the class table.
      long_side: of the picture, in pixels; small images are worth enlarging, for
        outlines and names are drawn afterwards. The image's own by default.
    """
    if image.shape[:2] != segmentation.size:
        raise ValueError(
            f"the image has size {image.shape[:2]} and its segments "
            f"{segmentation.size}; cut both to the photograph's own size"
        )
    size = _fit(segmentation.size, long_side or max(segmentation.size))
    # Drawn twice as large and shrunk, which smooths every edge.
    large = (2 * size[0], 2 * size[1])
    photograph = resize_image(image, large).astype(np.float32)
    rows = [info.classes[label] for label in segmentation.labels]
    colors = _segment_colors(rows)
    if segmentation.id_map is not None:
        index = _resize_map(segmentation.id_map, large)
        canvas = _paint(photograph, _hatch(photograph), index, colors)
    else:
        assert segmentation.masks is not None
        index, hidden = _stack_masks(segmentation.masks, large)
        canvas = _paint(photograph, photograph, index, colors)
        canvas = _outline(canvas, hidden, opacity=0.35)
    canvas = _outline(canvas, _edges(index))
    picture = Image.fromarray(_to_uint8(canvas)).reduce(2)
    regions, owners = _regions(index[::2, ::2], rows)
    names = _segment_names(segmentation, rows)
    write_names(picture, regions, [names[i] for i in owners], colors[owners])
    return np.asarray(picture)


def resize_image(
    image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """RGB at `size`, (height, width)."""
    if image.shape[:2] == size:
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def _fit(shape: tuple[int, ...], long_side: int) -> tuple[int, int]:
    factor = long_side / max(shape)
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _to_uint8(image: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _resize_mask(
    mask: Bool[np.ndarray, "H W"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H2 W2"]:
    """Smoothly, 0 to 255, so that an enlarged outline is a curve and no staircase."""
    blur = ImageFilter.GaussianBlur(0.9 * size[0] / mask.shape[0])
    image = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    resized = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized.filter(blur))


def _resize_map(
    id_map: Integer[np.ndarray, "H W"], size: tuple[int, int]
) -> Integer[np.ndarray, "H2 W2"]:
    """Each pixel's segment, -1 for none, at `size`: where several meet the strongest."""
    best = np.zeros(size, np.uint8)
    index = np.full(size, -1)
    for segment in np.unique(id_map):
        strength = _resize_mask(id_map == segment, size)
        index = np.where(strength > best, int(segment) - 1, index)
        best = np.maximum(strength, best)
    return index


def _stack_masks(
    masks: Bool[np.ndarray, "n H W"], size: tuple[int, int]
) -> tuple[Integer[np.ndarray, "H2 W2"], Bool[np.ndarray, "H2 W2"]]:
    """The smallest segment on each pixel, -1 for none; and all edges, hidden or not."""
    index = np.full(size, -1)
    edges = np.zeros(size, bool)
    areas = masks.sum((1, 2))
    for segment in np.argsort(-areas, kind="stable"):
        mask = _resize_mask(masks[segment], size) > 127
        index[mask] = segment
        edges |= _edges(mask)
    return index, edges


def _edges(index: np.ndarray) -> Bool[np.ndarray, "H W"]:
    """Where one segment ends."""
    edges = np.zeros(index.shape, bool)
    edges[:-1] |= index[1:] != index[:-1]
    edges[:, :-1] |= index[:, 1:] != index[:, :-1]
    return edges


def _regions(
    index: Integer[np.ndarray, "H W"], rows: Sequence[ClassInfo]
) -> tuple[Integer[np.ndarray, "H W"], list[int]]:
    """What gets a name of its own: things, and every large region of stuff.

    Returns:
      The region of each pixel, -1 for none, and the segment of each region.
    """
    regions, owners = index.copy(), list(range(len(rows)))
    for segment in np.flatnonzero([not row.is_thing for row in rows]).tolist():
        labeled: Any = ndimage.label(index == segment)
        parts, _ = labeled
        areas = np.bincount(parts.ravel())[1:]
        for part in np.argsort(-areas, kind="stable")[1:]:
            if areas[part] >= _MIN_REGION * index.size:
                regions[parts == part + 1] = len(owners)
                owners.append(segment)
    return regions, owners


def _segment_names(segmentation: Segmentation, rows: Sequence[ClassInfo]) -> list[str]:
    """Of crowds that they are some; beside an overlapping mask its score."""
    names = [row.name for row in rows]
    if segmentation.is_crowd is not None:
        crowds = segmentation.is_crowd
        names = [f"{n} (crowd)" if c else n for n, c in zip(names, crowds)]
    if segmentation.masks is not None and segmentation.scores is not None:
        names = [f"{n} {s:.2f}" for n, s in zip(names, segmentation.scores)]
    return names


def _segment_colors(rows: Sequence[ClassInfo]) -> Float[np.ndarray, "n 3"]:
    """Stuff: the class's colour. Things: shades around it, unlike one another."""
    colors, seen = [], {}
    for row in rows:
        red, green, blue = (channel / 255 for channel in row.color)
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        if row.is_thing:
            number = seen[row.name] = seen.get(row.name, -1) + 1
            # Steps of the golden ratio never come back near an earlier shade.
            shift = (number * 0.618 + 0.5) % 1 - 0.5
            hue = (hue + 0.22 * shift) % 1
            saturation = np.clip(saturation, 0.55, 0.95)
            value = np.clip(value + 0.3 * shift, 0.62, 1.0)
        colors.append(colorsys.hsv_to_rgb(hue, saturation, value))
    return 255 * np.array(colors, np.float32).reshape(-1, 3)


def _paint(
    photograph: Float[np.ndarray, "H W 3"],
    background: Float[np.ndarray, "H W 3"],
    index: Integer[np.ndarray, "H W"],
    colors: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "H W 3"]:
    """Colours over a paler photograph; the background where there is no segment.

    The photograph keeps its light and gives up most of its own colour, so that a
    segment's colour reads the same on every ground.
    """
    light = 0.3 * photograph + 0.7 * _grey(photograph)
    palette = np.append(colors, [[0.0, 0.0, 0.0]], axis=0)
    painted = (1 - _OPACITY) * light + _OPACITY * palette[index]
    return np.where(index[..., None] < 0, background, painted)


def _hatch(photograph: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """Without colour, under diagonal stripes."""
    height, width, _ = photograph.shape
    period = max(height, width) / 40
    across = np.arange(height)[:, None] + np.arange(width)
    stripes = np.clip(4 * np.abs(across / period % 1 - 0.5) - 1.2, 0, 1)
    grey = 0.5 * _grey(photograph) + 80 + 28 * stripes[..., None]
    return np.broadcast_to(grey, photograph.shape)


def _grey(photograph: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 1"]:
    return photograph @ np.array([[0.299], [0.587], [0.114]], np.float32)


def _outline(
    canvas: Float[np.ndarray, "H W 3"],
    edges: Bool[np.ndarray, "H W"],
    *,
    opacity: float = 0.9,
) -> Float[np.ndarray, "H W 3"]:
    """White lines along the edges."""
    if not edges.any():
        return canvas
    distance: np.ndarray = ndimage.distance_transform_edt(~edges)  # pyright: ignore
    strength = np.clip(max(1.7, max(edges.shape) / 550) - distance, 0, 1)[..., None]
    return canvas + (255 - canvas) * opacity * strength

"""Draws the segments of a photograph over it, with outlines and class names.

Everything here runs on the host, on NumPy arrays and Pillow images. Segments are
outlined on a grid of limited size, so that a picture of twelve megapixels takes little
longer than resizing it.

Legend: H W pixels of the photograph, h w of the grid, n segments in one picture.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image
from scipy import ndimage

from eomt_jax.pictures.name_plates import visual_side, write_names
from eomt_jax.pictures.outlines import Outlined, outline_segments, pick_nearest
from eomt_jax.pictures.palette import segment_colors
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.types import ClassInfo, DatasetInfo

_OPACITY = 0.55
_GREYNESS = 0.55
"""The photograph is so much greyer under a colour, which then looks alike anywhere."""
_MAX_OUTLINED = 1280
"""Visual side of the grid; outlines are smooth, and look alike on larger pictures."""
_MAX_NAMED = 170
"""Visual side of the coarser grid on which names find their places."""
_MIN_REGION = 1 / 60
"""Further regions of stuff need this share of the picture to get a name."""


def draw_segmentation(
    image: UInt8[np.ndarray, "H W 3"],
    segmentation: Segmentation,
    info: DatasetInfo,
    *,
    long_side: int | None = None,
    min_score: float = 0.0,
    show_scores: bool | None = None,
    line_width: float | None = None,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Draws the segments of a photograph over it.

    Stuff has its class's colour, and each thing a shade of its own. Names stand where
    they hide least, those of stuff on each large region. Pixels of no segment are pale
    and grey. Where segments may overlap, small ones lie over large ones, and the
    photograph stays as it is around them.

    Args:
      image: RGB.
      segmentation: has the image's size; segments without a pixel are ignored.
      info: the class table.
      long_side: pixels of the picture's long side, by default the image's own; small
        images are worth enlarging, for outlines and names are drawn afterwards.
      min_score: segments that score less are left out, 0 to 1.
      show_scores: whether names have scores behind them, in percent; by default they do
        where segments may overlap.
      line_width: width of the outlines in pixels of the picture; 0 draws none. By
        default it grows with the picture.

    Raises:
      ValueError: the image and its segments differ in size.
    """
    if image.shape[:2] != segmentation.size:
        raise ValueError(
            f"the image has size {image.shape[:2]} and its segments "
            f"{segmentation.size}; cut both to the photograph's own size"
        )
    if show_scores is None:
        show_scores = segmentation.masks is not None
    rows = [info.classes[label] for label in segmentation.labels]
    colors = segment_colors(rows)
    names = _segment_names(segmentation, rows, show_scores=show_scores)
    shown = np.ones(len(rows), bool)
    if segmentation.scores is not None:
        shown = segmentation.scores >= min_score

    size = fit_long_side(segmentation.size, long_side or max(segmentation.size))
    grid = _shrink(size, _MAX_OUTLINED)
    if line_width is None:
        line_width = max(1.4, visual_side(size) / 480)
    outlined = outline_segments(
        segmentation,
        np.flatnonzero(shown),
        grid=grid,
        line_width=line_width * max(grid) / max(size),
    )
    photograph = Image.fromarray(resize_image(image, size))
    is_whole = segmentation.id_map is not None
    background = _pale(photograph) if is_whole else photograph
    picture = _paint(photograph, background, outlined, colors)

    coarse = _shrink(grid, _MAX_NAMED)
    regions, owners = _regions(pick_nearest(outlined.index, coarse), rows)
    write_names(picture, regions, [names[i] for i in owners], colors[owners])
    return np.asarray(picture)


def resize_image(
    image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Resizes RGB to `size`, (height, width)."""
    if image.shape[:2] == size:
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def fit_long_side(shape: tuple[int, ...], long_side: int) -> tuple[int, int]:
    """Returns (height, width) with the proportions of `shape` and this long side."""
    factor = long_side / max(shape)
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _shrink(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Returns the size of a grid with the proportions of `size`, and no larger."""
    return fit_long_side(size, round(max(size) * min(1, max_side / visual_side(size))))


def _paint(
    photograph: Image.Image,
    background: Image.Image,
    outlined: Outlined,
    colors: UInt8[np.ndarray, "n 3"],
) -> Image.Image:
    """Paints segments and white outlines, with the background elsewhere."""

    def enlarge(values: np.ndarray) -> Image.Image:
        return Image.fromarray(values).resize(
            photograph.size, Image.Resampling.BILINEAR
        )

    palette = np.append(colors, np.zeros((1, 3), np.uint8), axis=0)
    grey = photograph.convert("L").convert("RGB")
    light = Image.blend(photograph, grey, _GREYNESS)
    painted = Image.blend(light, enlarge(palette[outlined.index]), _OPACITY)
    covered = enlarge(np.where(outlined.index < 0, np.uint8(0), np.uint8(255)))
    picture = Image.composite(painted, background, covered)
    lines = (0.95 * outlined.lines).astype(np.uint8)
    picture.paste((255, 255, 255), (0, 0), enlarge(lines))
    return picture


def _pale(photograph: Image.Image) -> Image.Image:
    """Makes a photograph grey, without deep shadows."""
    grey = photograph.convert("L").point([110 + 0.5 * v for v in range(256)])
    return grey.convert("RGB")


def _regions(
    index: Integer[np.ndarray, "h w"], rows: Sequence[ClassInfo]
) -> tuple[Integer[np.ndarray, "h w"], list[int]]:
    """Finds what gets a name of its own: things, and every large region of stuff.

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


def _segment_names(
    segmentation: Segmentation, rows: Sequence[ClassInfo], *, show_scores: bool
) -> list[str]:
    """Makes a short name for each segment, with "crowd" and its score if it has one."""
    names = [short_name(row.name) for row in rows]
    if segmentation.is_crowd is not None:
        crowds = segmentation.is_crowd
        names = [f"{n} (crowd)" if c else n for n, c in zip(names, crowds)]
    if show_scores and segmentation.scores is not None:
        names = [f"{n} {100 * s:.0f}%" for n, s in zip(names, segmentation.scores)]
    return names


def short_name(name: str) -> str:
    """Drops the endings that say how COCO's panoptic classes were merged."""
    for ending in ("-merged", "-stuff", "-other"):
        name = name.removesuffix(ending)
    return name.replace("_", " ")

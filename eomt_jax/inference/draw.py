"""Pictures of segmentations: coloured, outlined, and labelled with class names.

Everything here runs on the host, on NumPy arrays and Pillow images.
Legend: H W pixels, n segments in one picture.
"""

import colorsys
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from eomt_jax.inference.name_plates import load_font, write_names
from eomt_jax.inference.panoptic import PanopticPrediction
from eomt_jax.types import Batch, ClassInfo, DatasetInfo

_INK = (32, 35, 42)
_PAPER = (255, 255, 255)
_OPACITY = 0.6


@dataclasses.dataclass(frozen=True)
class Picture:
    """One row of a comparison, in host memory.

    Attributes:
      image: the photograph, RGB.
      segmentations: (id map of the photograph's size, labels) for each panel beside
        it; 0 in a map is no segment, i + 1 is a segment of class labels[i].
    """

    image: UInt8[np.ndarray, "H W 3"]
    segmentations: Sequence[tuple[np.ndarray, np.ndarray]]


def draw_panoptic(
    image: UInt8[np.ndarray, "H W 3"],
    id_map: Integer[np.ndarray, "height width"],  # checked below, so not H W
    labels: Integer[np.ndarray, " n"],
    info: DatasetInfo,
    *,
    long_side: int | None = None,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """A photograph under its segments.

    Stuff has its class's colour, things a shade of their own each; what belongs to no
    segment is hatched in grey. Names stand where a segment is widest.

    Args:
      image: RGB.
      id_map: 0 for no segment, i + 1 for a segment of class labels[i].
      labels: class of each segment; entries that the map doesn't show are ignored.
      info: the class table.
      long_side: of the picture, in pixels; small images are worth enlarging, for
        outlines and names are drawn afterwards. The image's own by default.
    """
    if image.shape[:2] != id_map.shape:
        raise ValueError(
            f"the image has size {image.shape[:2]} and its id map {id_map.shape}; "
            "cut both to the photograph's own size"
        )
    size = _fit(id_map.shape, long_side or max(id_map.shape))
    ids = np.unique(id_map)
    ids = ids[ids > 0]
    rows = [info.classes[labels[i - 1]] for i in ids]
    colors = _segment_colors(rows)
    # Drawn twice as large and shrunk, which smooths every edge.
    large = (2 * size[0], 2 * size[1])
    index = _resize_map(id_map, ids, large)
    canvas = _outline(_paint(_resize_image(image, large), index, colors), index)
    picture = Image.fromarray(_to_uint8(canvas)).reduce(2)
    write_names(picture, index[::2, ::2], [row.name for row in rows], colors)
    return np.asarray(picture)


def draw_comparison(
    pictures: Sequence[Picture],
    info: DatasetInfo,
    *,
    titles: Sequence[str] = ("prediction", "target", "image"),
    panel: int = 420,
) -> UInt8[np.ndarray, "H W 3"]:
    """Several photographs below each other, each after its segmentations.

    Args:
      pictures: a row each.
      info: the class table.
      titles: over the columns; the last is the photograph's.
      panel: long side of each panel, in pixels.
    """
    rows = []
    for picture in pictures:
        cells = [
            draw_panoptic(picture.image, id_map, labels, info, long_side=panel)
            for id_map, labels in picture.segmentations
        ]
        plain = _resize_image(picture.image, cells[0].shape[:2])
        rows.append([*cells, _to_uint8(plain)])

    gap, header = max(8, panel // 40), max(24, panel // 12)
    width = max(cell.shape[1] for row in rows for cell in row)
    total_width = gap + len(titles) * (width + gap)
    total_height = header + sum(row[0].shape[0] + gap for row in rows)
    sheet = Image.new("RGB", (total_width, total_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = load_font(max(13, panel // 22))
    for column, title in enumerate(titles):
        center = gap + column * (width + gap) + width / 2
        draw.text((center, header / 2), title, _INK, font, anchor="mm")
    top = header
    for row in rows:
        for column, cell in enumerate(row):
            left = gap + column * (width + gap) + (width - cell.shape[1]) // 2
            sheet.paste(Image.fromarray(cell), (left, top))
        top += row[0].shape[0] + gap
    return np.asarray(sheet)


def batch_pictures(
    batch: Batch, prediction: PanopticPrediction, *, max_pictures: int
) -> list[Picture]:
    """Rows for draw_comparison: what was predicted, what was wanted.

    The photograph is the network's input scaled back, so it may look softer than the
    file. Rows that only fill up the batch are left out.

    Args:
      batch: of an evaluation, in host memory (jax.device_get).
      prediction: for this batch, in host memory.
      max_pictures: at most so many, the first ones.
    """
    pictures = []
    for i in np.flatnonzero(batch.valid)[:max_pictures]:
        height, width = (int(side) for side in batch.original_size[i])
        content = batch.content_size[i]
        image = np.asarray(batch.image[i][: content[0], : content[1]])
        image = _to_uint8(_resize_image(image, (height, width)))
        segmentations = [
            (np.asarray(x.id_map[i][:height, :width]), np.asarray(x.labels[i]))
            for x in (prediction, batch.targets)
        ]
        pictures.append(Picture(image, segmentations))
    return pictures


def _fit(shape: tuple[int, ...], long_side: int) -> tuple[int, int]:
    factor = long_side / max(shape)
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _to_uint8(image: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 RGB at `size`."""
    if image.shape[:2] != size:
        height, width = size
        resized = Image.fromarray(image).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        image = np.asarray(resized)
    return image.astype(np.float32)


def _resize_map(
    id_map: np.ndarray, ids: np.ndarray, size: tuple[int, int]
) -> Integer[np.ndarray, "H W"]:
    """Position in ids of each pixel's segment, -1 for none, at `size`.

    Each segment is resized smoothly and the strongest wins, so that an enlarged
    outline is a curve and no staircase.
    """
    best = np.full(size, -np.inf, np.float32)
    index = np.full(size, -1)
    blur = ImageFilter.GaussianBlur(0.9 * size[0] / id_map.shape[0])
    for position, segment in enumerate([0, *ids], start=-1):
        mask = Image.fromarray(np.where(id_map == segment, np.uint8(255), np.uint8(0)))
        strength = mask.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        strength = np.asarray(strength.filter(blur))
        index = np.where(strength > best, position, index)
        best = np.maximum(strength, best)
    return index


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
    photograph: np.ndarray, index: np.ndarray, colors: np.ndarray
) -> Float[np.ndarray, "H W 3"]:
    """Colours over a paler photograph; hatched grey where there is no segment.

    The photograph keeps its light and gives up most of its own colour, so that a
    segment's colour reads the same on every ground.
    """
    grey = photograph @ np.array([0.299, 0.587, 0.114], np.float32)
    light = 0.3 * photograph + 0.7 * grey[..., None]
    palette = np.append(colors, [[0.0, 0.0, 0.0]], axis=0)
    painted = (1 - _OPACITY) * light + _OPACITY * palette[index]
    rows, columns = (np.arange(n) for n in index.shape)
    period = max(index.shape) / 40
    hatch = np.clip(
        4 * np.abs((rows[:, None] + columns) / period % 1 - 0.5) - 1.2, 0, 1
    )
    empty = 0.5 * grey + 80 + 28 * hatch
    return np.where(index[..., None] < 0, empty[..., None], painted)


def _outline(canvas: np.ndarray, index: np.ndarray) -> Float[np.ndarray, "H W 3"]:
    """White lines where one segment ends."""
    edge = np.zeros(index.shape, bool)
    edge[:-1] |= np.diff(index, axis=0) != 0
    edge[:, :-1] |= np.diff(index, axis=1) != 0
    if not edge.any():
        return canvas
    distance: np.ndarray = ndimage.distance_transform_edt(~edge)  # pyright: ignore
    strength = np.clip(max(1.7, max(index.shape) / 550) - distance, 0, 1)[..., None]
    return canvas + (255 - canvas) * 0.9 * strength

"""Objects of an instances JSON: read from its rows, and encoded as masks."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_codec

from eomt_jax.datasets import coco_schema, coco_table, run_lengths
from eomt_jax.datasets.coco_reader import AnnotatedImage
from eomt_jax.datasets.coco_table import CocoTable

FORMAT = "COCO's instances format"
MIN_POLYGON = 6  # numbers; fewer than three corners have no inside

# Corners of each part, or run lengths with the size of the image that they are for.
Segmentation = tuple[np.ndarray, ...] | Mapping[str, Any]


class AnnotatedObject(NamedTuple):
    """An annotation; the published JSON has almost a million.

    Attributes:
      area: in pixels, as published; None where it isn't.
      segmentation: None where there is none.
      num_flat: polygons of fewer than three corners that are left out of it.
    """

    id: Any
    image_id: Any
    category: int
    crowd: int
    area: float | None
    segmentation: Segmentation | None
    num_flat: int


def read_table(text: bytes, *, name: str, source: str) -> CocoTable:
    """Reads an instances JSON, as coco_table.read_table does."""
    return coco_table.read_table(
        text, name=name, source=source, format=FORMAT, shrink=_shrink
    )


def _shrink(row: dict[str, Any]) -> Any:
    if "category_id" not in row or "image_id" not in row:
        return row
    try:
        segmentation, num_flat = _shrink_segmentation(row.get("segmentation"))
        return AnnotatedObject(
            id=None if row.get("id") is None else coco_schema.identifier(row, "id"),
            image_id=coco_schema.identifier(row, "image_id"),
            category=coco_schema.whole_number(
                row, "category_id", low=-coco_schema.MAX_ID
            ),
            crowd=coco_schema.flag(row, "iscrowd"),
            area=coco_schema.number(row, "area", what="a number of pixels"),
            segmentation=segmentation,
            num_flat=num_flat,
        )
    except ValueError as error:
        name = coco_schema.short(row.get("id"))
        raise ValueError(f"annotation {name}: {error}") from error


def _shrink_segmentation(segmentation: Any) -> tuple[Segmentation | None, int]:
    """Returns a segmentation and the number of its polygons that have no inside.

    Polygons become arrays, without those, and compressed run lengths become bytes. The
    segmentation is None where nothing is left.
    """
    if not segmentation:
        return None, 0
    if isinstance(segmentation, list):
        parts = [_corners(part) for part in segmentation]
        whole = tuple(part for part in parts if part.size >= MIN_POLYGON)
        return whole or None, len(parts) - len(whole)
    if not isinstance(segmentation, dict):
        what = "the segmentation is neither polygons nor run lengths"
        raise ValueError(what)  # noqa: TRY004
    height, width = _rle_size(segmentation.get("size"))
    counts = segmentation.get("counts")
    if isinstance(counts, str) and counts.isascii():
        return {"size": [height, width], "counts": counts.encode()}, 0
    if not isinstance(counts, list):
        what = coco_schema.short(counts)
        raise ValueError(f"the run lengths are {what}, not a list")  # noqa: TRY004
    wrong = [n for n in counts if not isinstance(n, int) or n < 0]
    if wrong:
        shown = coco_schema.short(wrong[0])
        raise ValueError(f"a run length is {shown}, not a number of pixels")
    if sum(counts) != height * width:
        raise ValueError(
            f"run lengths of {sum(counts):,} pixels for a size of {height} x {width}"
        )
    uncompressed: Any = segmentation
    return mask_codec.frPyObjects(uncompressed, height, width), 0


def _corners(part: Any) -> np.ndarray:
    """Returns x, y, x, y, … of a polygon."""
    try:
        corners = np.array(part, np.float64)
    except (TypeError, ValueError, OverflowError):
        corners = np.array(np.nan)
    if corners.ndim != 1 or corners.size % 2 or not np.isfinite(corners).all():
        raise ValueError("a polygon is no list x, y, x, y, …")
    return corners


def _rle_size(size: Any) -> tuple[int, int]:
    """Returns (height, width) of run lengths; pycocotools counts pixels in 32 bits."""
    is_pair = isinstance(size, list) and len(size) == 2
    if not is_pair or not all(type(n) is int and n >= 0 for n in size):
        shown = coco_schema.short(size)
        raise ValueError(f"the size of the run lengths is {shown}, not [height, width]")
    if math.prod(size) >= 1 << 31:
        raise ValueError(f"run lengths are for {size[0]:,} x {size[1]:,} pixels")
    return size[0], size[1]


def reaches_outside(thing: AnnotatedObject, size: tuple[int, int]) -> bool:
    """Returns whether a mask leaves (height, width) by more than a pixel."""
    if not isinstance(thing.segmentation, tuple):
        return thing.segmentation is not None and thing.segmentation["size"] != [*size]
    corners = np.concatenate(thing.segmentation).reshape(-1, 2)
    return bool(np.any(corners < -1) or np.any(corners > np.array(size[::-1]) + 1))


def encode(thing: AnnotatedObject, image: AnnotatedImage) -> Any:
    """Returns the run lengths of an object's mask; ValueError where it doesn't fit."""
    height, width = image.size
    where = f"the mask of annotation {thing.id} of {image.file_name}"
    if isinstance(thing.segmentation, tuple):
        corners = np.concatenate(thing.segmentation).reshape(-1, 2)
        # The encoder takes time and memory by the polygon's length.
        if np.any(np.abs(corners) > 2 * np.array([width, height])):
            raise ValueError(
                f"{where} reaches far outside of {height} x {width} pixels"
            )
        polygons: Any = list(thing.segmentation)
        parts: Any = mask_codec.frPyObjects(polygons, height, width)
        return mask_codec.merge(parts)
    rle: Any = thing.segmentation
    if rle["size"] != [height, width]:
        raise ValueError(
            f"{where} has size {' x '.join(map(str, rle['size']))}, the image "
            f"{height} x {width}"
        )
    if run_lengths.find_broken([rle["counts"]], image.size) is not None:
        raise ValueError(
            f"{where} is no mask in compressed run lengths of {height} x {width} pixels"
        )
    return rle

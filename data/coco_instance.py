"""COCO 2017 instances, from the three archives of cocodataset.org.

Masks are kept as they are annotated, overlaps and crowds included, and areas as they
are published. A photograph without an object is left out of training; in validation it
stays, for average precision counts what is found on it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_codec

from data import coco_builder, coco_json, coco_schema, run_lengths
from data.coco_json import AnnotatedImage, CocoTable
from data.file_finder import FileFinder
from data.sources import Source
from eomt_jax import dataset_info
from eomt_jax.pipeline.records import Record

_FORMAT = "COCO's instances format"
_MIN_POLYGON = 6  # numbers; fewer than three corners have no inside

# Corners of each part, or run lengths with the size of the image that they are for.
Segmentation = tuple[np.ndarray, ...] | Mapping[str, Any]


class _Object(NamedTuple):
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


class InstanceReader(coco_json.CocoReader):
    """Records of an instances JSON."""

    format = _FORMAT
    evaluates_empty = True

    def make_record(self, image: AnnotatedImage, *, split: str) -> Record | None:
        photograph, image = self.read_photograph(image)
        self._note_cut_off(image)
        rles = [_encode(thing, image) for thing in image.masks]
        pixels = np.array([mask_codec.area(rle) for rle in rles], np.int64)
        if not pixels.all():
            image, rles, pixels = self._leave_out_empty(image, rles, pixels, split)
            if not rles:
                what = f"{split} photographs without an object's pixel, left out"
                self.note(what, image.image_id)
                return None
        areas = [
            float(number) if thing.area is None else thing.area
            for thing, number in zip(image.masks, pixels, strict=True)
        ]
        return Record(
            image_bytes=photograph,
            rles=tuple(rle["counts"] for rle in rles),
            areas=np.array(areas, np.float64),
            labels=image.labels,
            is_crowd=image.is_crowd,
            image_id=image.image_id,
            file_name=image.file_name,
            height=image.height,
            width=image.width,
        )

    def fits(self, image: AnnotatedImage, size: tuple[int, int]) -> bool:
        return not any(_reaches_outside(thing, size) for thing in image.masks)

    def _note_cut_off(self, image: AnnotatedImage) -> None:
        if self._turns_upright:
            names = [
                f"id {thing.id} of {image.file_name}"
                for thing in image.masks
                if _reaches_outside(thing, image.size)
            ]
            if names:
                what = "objects that reach outside of their photograph, cut off there"
                self.note(what, *names)

    def _leave_out_empty(
        self, image: AnnotatedImage, rles: list, pixels: np.ndarray, split: str
    ) -> tuple[AnnotatedImage, list, np.ndarray]:
        """The three without the objects that have no pixel, such as a flat polygon.

        In validation they stay: pycocotools counts them as objects that nothing finds,
        and the average precision is to equal its own.
        """
        names = [
            f"id {thing.id} of {image.file_name}"
            for thing, number in zip(image.masks, pixels, strict=True)
            if not number
        ]
        if split != "train":
            self.note("objects without a pixel, kept for validation", *names)
            return image, rles, pixels
        self.note("objects without a pixel, left out", *names)
        seen = np.flatnonzero(pixels)
        left = dataclasses.replace(
            image,
            labels=image.labels[seen],
            is_crowd=image.is_crowd[seen],
            masks=[image.masks[i] for i in seen],
        )
        return left, [rles[i] for i in seen], pixels[seen]

    def _read_images(
        self, table: CocoTable, labels: Mapping[int, int]
    ) -> list[AnnotatedImage]:
        objects: dict[Any, list[_Object]] = {key: [] for key in table.images}
        num_bare = 0
        for thing in table.annotations:
            if not isinstance(thing, _Object):
                what = "an annotation lacks image_id or category_id"
                if isinstance(thing, Mapping) and "segments_info" in thing:
                    what = (
                        "its annotations have segments_info, as panoptic ones do, whose "
                        "PNGs --segments=PATH gives"
                    )
                raise ValueError(what)  # noqa: TRY004
            coco_json.image_row(thing.image_id, table)
            name = f"id {thing.id} of image {thing.image_id}"
            if thing.num_flat:
                what = "polygons of fewer than three corners, left out of their objects"
                self.note(what, *[name] * thing.num_flat)
            if thing.segmentation is None:
                num_bare += 1
                self.note("annotations without a mask, left out", name)
            else:
                objects[thing.image_id].append(thing)
        if num_bare:
            self.lack = (
                f"{num_bare:,} of its {len(table.annotations):,} annotations have no "
                "mask (no segmentation: boxes alone); annotate outlines, or export them "
                "with polygons or masks"
            )
        return [
            coco_json.annotated_image(
                table.images[key],
                [(coco_json.label_of(t.category, labels), t.crowd) for t in things],
                things,
            )
            for key, things in objects.items()
        ]


class CocoInstance(coco_builder.PublishedCocoBuilder):
    """Builder of `coco_instance`."""

    classes = dataset_info.load_classes("coco_instance")
    task = "instance"
    description = "COCO 2017 with masks of objects of 80 classes."
    annotations = coco_builder.archive(
        "annotations",
        "annotations_trainval2017.zip",
        "0.3 GB",
        [
            f"annotations/instances_{folder}.json"
            for folder in coco_builder.FOLDERS.values()
        ],
    )

    def open_reader(
        self, folder: str, photographs: FileFinder, annotations: Source
    ) -> InstanceReader:
        file = f"annotations/instances_{folder}.json"
        table = read_table(
            annotations.read(file),
            name=f"{file} in {annotations.name}",
            source=annotations.source,
        )
        return InstanceReader(table, photographs, classes=self.classes, note=self.note)


def read_table(text: bytes, *, name: str, source: str) -> CocoTable:
    """An instances JSON; see coco_json.read_table."""
    return coco_json.read_table(
        text, name=name, source=source, format=_FORMAT, shrink=_shrink
    )


def _shrink(row: dict[str, Any]) -> Any:
    if "category_id" not in row or "image_id" not in row:
        return row
    try:
        segmentation, num_flat = _shrink_segmentation(row.get("segmentation"))
        return _Object(
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
        whole = tuple(part for part in parts if part.size >= _MIN_POLYGON)
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
    """x, y, x, y, … of a polygon."""
    try:
        corners = np.array(part, np.float64)
    except (TypeError, ValueError, OverflowError):
        corners = np.array(np.nan)
    if corners.ndim != 1 or corners.size % 2 or not np.isfinite(corners).all():
        raise ValueError("a polygon is no list x, y, x, y, …")
    return corners


def _rle_size(size: Any) -> tuple[int, int]:
    """(height, width) that run lengths are for; pycocotools counts pixels in 32 bits."""
    is_pair = isinstance(size, list) and len(size) == 2
    if not is_pair or not all(type(n) is int and n >= 0 for n in size):
        shown = coco_schema.short(size)
        raise ValueError(f"the size of the run lengths is {shown}, not [height, width]")
    if math.prod(size) >= 1 << 31:
        raise ValueError(f"run lengths are for {size[0]:,} x {size[1]:,} pixels")
    return size[0], size[1]


def _reaches_outside(thing: _Object, size: tuple[int, int]) -> bool:
    """Whether a mask leaves (height, width) by more than a corner on the border does."""
    if not isinstance(thing.segmentation, tuple):
        return thing.segmentation is not None and thing.segmentation["size"] != [*size]
    corners = np.concatenate(thing.segmentation).reshape(-1, 2)
    return bool(np.any(corners < -1) or np.any(corners > np.array(size[::-1]) + 1))


def _encode(thing: _Object, image: AnnotatedImage) -> Any:
    """Compressed run lengths of an object's mask; ValueError where it doesn't fit."""
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

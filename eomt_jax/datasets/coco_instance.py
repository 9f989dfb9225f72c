"""COCO 2017 instances, from the three archives of cocodataset.org.

Masks are kept as they are annotated, overlaps and crowds included, and areas as they
are published. A photograph without an object is left out of training; in validation it
stays, for average precision counts what is found on it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as mask_codec

from eomt_jax import dataset_info
from eomt_jax.datasets import coco_builder, coco_reader, coco_table
from eomt_jax.datasets.coco_objects import (
    FORMAT,
    AnnotatedObject,
    encode,
    reaches_outside,
    read_table,
)
from eomt_jax.datasets.coco_reader import AnnotatedImage
from eomt_jax.datasets.coco_table import CocoTable
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.sources import Source
from eomt_jax.pipeline.records import Record


class InstanceReader(coco_reader.CocoReader):
    """Records of an instances JSON."""

    format = FORMAT
    evaluates_empty = True

    def make_record(self, image: AnnotatedImage, *, split: str) -> Record | None:
        photograph, image = self.read_photograph(image)
        self._note_cut_off(image)
        rles = [encode(thing, image) for thing in image.masks]
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
        return not any(reaches_outside(thing, size) for thing in image.masks)

    def _note_cut_off(self, image: AnnotatedImage) -> None:
        if self._turns_upright:
            names = [
                f"id {thing.id} of {image.file_name}"
                for thing in image.masks
                if reaches_outside(thing, image.size)
            ]
            if names:
                what = "objects that reach outside of their photograph, cut off there"
                self.note(what, *names)

    def _leave_out_empty(
        self, image: AnnotatedImage, rles: list, pixels: np.ndarray, split: str
    ) -> tuple[AnnotatedImage, list, np.ndarray]:
        """Returns the three without objects that have no pixel, such as a flat polygon.

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
        objects: dict[Any, list[AnnotatedObject]] = {key: [] for key in table.images}
        num_bare = 0
        for thing in table.annotations:
            if not isinstance(thing, AnnotatedObject):
                what = "an annotation lacks image_id or category_id"
                if isinstance(thing, Mapping) and "segments_info" in thing:
                    what = (
                        "its annotations have segments_info, as panoptic ones do, whose "
                        "PNGs --segments=PATH gives"
                    )
                raise ValueError(what)  # noqa: TRY004
            coco_table.image_row(thing.image_id, table)
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
            coco_reader.annotated_image(
                table.images[key],
                [(coco_reader.label_of(t.category, labels), t.crowd) for t in things],
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

"""COCO 2017 panoptic, from the three archives of cocodataset.org.

An annotation whose photograph or PNG is missing is an error. A photograph that the
JSON doesn't name, or gives no segment, is left out and counted, in training and in
validation, as the method's authors do. Where JSON and PNG disagree on an image's
segments, both are needed: a segment of the JSON without a pixel is left out, pixels
without a row in the JSON become void; both are counted and reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eomt_jax import dataset_info
from eomt_jax.datasets import (
    coco_builder,
    coco_reader,
    coco_schema,
    coco_table,
    mask_pngs,
)
from eomt_jax.datasets.coco_reader import AnnotatedImage
from eomt_jax.datasets.coco_table import CocoTable
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.sources import Source
from eomt_jax.pipeline.records import Record

_FORMAT = "COCO's panoptic format"


class _Masks(NamedTuple):
    """The PNG of an image's masks, and int64 [T] ids of the segments in it."""

    file_name: str
    segment_ids: np.ndarray


class PanopticReader(coco_reader.CocoReader):
    """Records of a panoptic JSON and the PNGs of its segments."""

    format = _FORMAT

    def __init__(self, table: CocoTable, photographs: FileFinder, pngs, **kwargs):
        super().__init__(table, photographs, **kwargs)
        self._pngs: FileFinder = pngs
        pngs.register(image.masks.file_name for image in self.images)
        # Segment ids have 24 bits: one table turns a whole map at once, and only the
        # rows in use are touched.
        self._segment_numbers = np.zeros(1 << 24, np.uint16)

    def order(self, image: AnnotatedImage) -> int:
        return self._pngs.order(image.masks.file_name)

    def check_files(self, images: Sequence[AnnotatedImage]) -> None:
        super().check_files(images)
        names = [image.masks.file_name for image in images]
        self._check_files(self._pngs, names)

    def make_record(self, image: AnnotatedImage, *, split: str) -> Record | None:
        del split  # all are made alike
        photograph, image = self.read_photograph(image)
        segment_map, seen = self._read_segments(image)
        if not seen.any():
            self.note("images without a segment's pixel, left out", image.image_id)
            return None
        return Record(
            image_bytes=photograph,
            segment_map=segment_map,
            labels=image.labels[seen],
            is_crowd=image.is_crowd[seen],
            image_id=image.image_id,
            file_name=image.file_name,
            height=image.height,
            width=image.width,
        )

    def fits(self, image: AnnotatedImage, size: tuple[int, int]) -> bool:
        file_name = image.masks.file_name
        encoded = self._pngs.read(file_name)
        return mask_pngs.size_of(encoded, file=file_name) == size

    def _read_images(
        self, table: CocoTable, labels: Mapping[int, int]
    ) -> list[AnnotatedImage]:
        images = []
        annotated: set[Any] = set()
        for annotation in table.annotations:
            if not isinstance(annotation, dict) or "segments_info" not in annotation:
                raise ValueError(
                    "an annotation lacks segments_info; instances are read without "
                    "--segments"
                )
            image_id = coco_schema.identifier(annotation, "image_id")
            segments = annotation["segments_info"]
            file_name = coco_schema.text(annotation, "file_name")
            if not isinstance(segments, list) or not all(
                isinstance(segment, _Segment) for segment in segments
            ):
                raise ValueError(
                    f"segments_info of {coco_schema.short(file_name)} is no list of "
                    "segments with an id and a category_id"
                )
            row = coco_table.image_row(image_id, table)
            if image_id in annotated:
                raise ValueError(
                    f"two annotations are of image_id {image_id} ({row['file_name']})"
                )
            annotated.add(image_id)
            ids = np.array([segment.id for segment in segments], np.int64)
            if len(np.unique(ids)) < len(ids):
                twice = next(int(i) for i in ids if np.sum(ids == i) > 1)
                raise ValueError(
                    f"image_id {image_id} ({row['file_name']}) has two segments with the "
                    f"id {twice}: give each its own, in its PNG too"
                )
            if ids.size and not 0 < ids.min() <= ids.max() < 1 << 24:
                raise ValueError(f"a segment id is not 1 … {(1 << 24) - 1}")
            values = [
                (coco_reader.label_of(s.category, labels), s.crowd) for s in segments
            ]
            images.append(
                coco_reader.annotated_image(
                    row,
                    values,
                    _Masks(file_name, ids),
                )
            )
        if not any(len(image.labels) for image in images):
            self.lack = (
                f"the segments_info of all its {len(images):,} annotations are empty: "
                "they have to say the class of each segment of the PNGs"
            )
        return images

    def _read_segments(self, image: AnnotatedImage) -> tuple[np.ndarray, np.ndarray]:
        """Returns (id map, which segments of the JSON have a pixel in it)."""
        file_name, segment_ids = image.masks
        colors = mask_pngs.read_rgb(self._pngs.read(file_name), file=file_name)
        if colors.shape[:2] != image.size:
            height, width = colors.shape[:2]
            raise ValueError(
                f"{file_name} has {height} x {width} pixels, but its annotation says "
                f"{image.height} x {image.width}"
            )
        red, green, blue = np.moveaxis(colors.astype(np.uint32), -1, 0)
        ids = red | green << 8 | blue << 16

        self._segment_numbers[segment_ids] = np.arange(1, len(segment_ids) + 1)
        numbers = self._segment_numbers[ids]
        self._segment_numbers[segment_ids] = 0
        if np.any((numbers == 0) & (ids != 0)):
            what = "images with segments that the JSON lacks, now void"
            self.note(what, image.image_id)

        seen = np.bincount(numbers.ravel(), minlength=len(segment_ids) + 1) > 0
        seen[0] = False
        if seen.sum() == len(segment_ids):
            return numbers, seen[1:]
        self.note("images with segments without a pixel, left out", image.image_id)
        compact = (np.cumsum(seen) * seen).astype(np.uint16)
        return compact[numbers], seen[1:]


class CocoPanoptic(coco_builder.PublishedCocoBuilder):
    """Builder of `coco_panoptic`."""

    classes = dataset_info.load_classes("coco_panoptic")
    description = "COCO 2017 with panoptic segments: 80 thing and 53 stuff classes."
    annotations = coco_builder.archive(
        "annotations",
        "panoptic_annotations_trainval2017.zip",
        "0.9 GB",
        [
            f"annotations/panoptic_{folder}.{kind}"
            for folder in coco_builder.FOLDERS.values()
            for kind in ("json", "zip")
        ],
    )

    def open_reader(
        self, folder: str, photographs: FileFinder, annotations: Source
    ) -> PanopticReader:
        file = f"annotations/panoptic_{folder}"
        table = read_table(
            annotations.read(f"{file}.json"),
            name=f"{file}.json in {annotations.name}",
            source=annotations.source,
        )
        pngs = self.open_files.enter_context(annotations.inner(f"{file}.zip"))
        return PanopticReader(
            table,
            photographs,
            FileFinder(pngs),
            classes=self.classes,
            note=self.note,
        )


class _Segment(NamedTuple):
    """A row of segments_info; the published JSON has over a million."""

    id: int
    category: int
    crowd: int


def read_table(text: bytes, *, name: str, source: str) -> CocoTable:
    """Reads a panoptic JSON, as coco_table.read_table does."""
    return coco_table.read_table(
        text, name=name, source=source, format=_FORMAT, shrink=_shrink
    )


def _shrink(row: dict[str, Any]) -> Any:
    if "category_id" in row:
        try:
            return _Segment(
                coco_schema.whole_number(row, "id"),
                coco_schema.whole_number(row, "category_id", low=-coco_schema.MAX_ID),
                coco_schema.flag(row, "iscrowd"),
            )
        except ValueError as error:
            name = coco_schema.short(row.get("id"))
            raise ValueError(f"segment {name}: {error}") from error
    return row

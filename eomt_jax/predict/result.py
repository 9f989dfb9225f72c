"""Describes the segments of one photograph by masks, names, JSON and a picture.

Legend: H W the photograph's pixels, n segments.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from pycocotools import mask as mask_codec
from scipy import ndimage

from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.task_registry import get_task
from eomt_jax.types import DatasetInfo

DESCRIPTION = "segments by eomt_jax"
"""Text by which eomt-predict recognises JSON files that it wrote."""

_codec: Any = mask_codec  # its stubs know no arrays


@dataclasses.dataclass(frozen=True)
class Segment:
    """Describes one segment in words and numbers.

    Attributes:
      id: its number in the id map, from 1 on.
      label: position of its class in the class table.
      class_name: the class's name.
      is_thing: True for an object, False for stuff.
      score: probability, 0 to 1; None in semantic segmentation, which has none.
      area: in pixels.
      box: (left, top, width, height) in pixels, as COCO has it.
    """

    id: int
    label: int
    class_name: str
    is_thing: bool
    score: float | None
    area: int
    box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Result:
    """Holds the segments of one photograph, at its own size.

    Attributes:
      image: the photograph, upright RGB.
      segmentation: its segments, labels and scores.
      info: the class table.
      task: what the segments are.
      file_name: of the photograph; "" for one that had none.
    """

    image: UInt8[np.ndarray, "H W 3"]
    segmentation: Segmentation
    info: DatasetInfo
    task: str
    file_name: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Returns (height, width) of the photograph."""
        return self.segmentation.size

    @property
    def confidence(self) -> Float[np.ndarray, "H W"] | None:
        """Returns each pixel's confidence, 0 to 1; None if the segmenter has none.

        Segmenter(confidence=…) says which kind it is.
        """
        return self.segmentation.confidence

    @functools.cached_property
    def id_map(self) -> Integer[np.ndarray, "H W"]:
        """Returns each pixel's segment.id, 0 where there is no segment.

        Where instances overlap, it is the id of the one with the best score.
        """
        if self.segmentation.id_map is not None:
            return self.segmentation.id_map
        masks = self.masks
        scores = self.segmentation.scores
        assert scores is not None
        id_map = np.zeros(self.size, np.int32)
        for i in np.argsort(scores, kind="stable"):
            id_map[masks[i]] = i + 1
        return id_map

    @property
    def label_map(self) -> Integer[np.ndarray, "H W"]:
        """Returns each pixel's class as a label, -1 where there is no segment."""
        return np.append(-1, self.segmentation.labels)[self.id_map]

    @property
    def masks(self) -> Bool[np.ndarray, "n H W"]:
        """Returns each segment's own mask, in the order of `segments`."""
        if self.segmentation.masks is not None:
            return self.segmentation.masks
        ids = np.arange(1, len(self.segmentation.labels) + 1)
        return self.id_map == ids[:, None, None]

    @functools.cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Returns all segments; instances come best first."""
        scores = self.segmentation.scores
        segments = []
        for i, (area, box) in enumerate(self._areas_and_boxes()):
            label = int(self.segmentation.labels[i])
            row = self.info.classes[label]
            score = None if scores is None else float(scores[i])
            segments.append(
                Segment(i + 1, label, row.name, row.is_thing, score, area, box)
            )
        return tuple(segments)

    def draw(self, **options: Any) -> UInt8[np.ndarray, "H2 W2 3"]:
        """Draws the segments on the photograph, with the options of draw_segmentation."""
        draw = get_task(self.task).draw
        return draw(self.image, self.segmentation, self.info, **options)

    def mask_picture(self) -> Integer[np.ndarray, "H W *rgb"]:
        """Returns a picture to save as PNG for other programs.

        Returns:
          Semantic: the dataset's own number of each pixel's class. Otherwise RGB, a
          segment's id as R + 256·G + 65536·B, black where there is none, as COCO
          panoptic has it.
        """
        return get_task(self.task).mask_picture(self)

    def to_coco(self) -> dict[str, Any]:
        """Returns a data set of this photograph as JSON values that pycocotools reads.

        Returns:
          info {description, task, dataset, mask_values: what the pixels of
          mask_picture are}; images, this one, with id 1, file_name, height and width;
          annotations, each segment, with id (the id map's), image_id, category_id (the
          dataset's own number), iscrowd 0, bbox, area, segmentation (run lengths) and
          score, where there is one; categories, those that occur, with id, name and
          isthing.
        """
        height, width = self.size
        rows, categories = [], {}
        for segment, rle in zip(self.segments, self._run_lengths(), strict=True):
            category_id = self.info.classes[segment.label].id
            categories[category_id] = {
                "id": category_id,
                "name": segment.class_name,
                "isthing": int(segment.is_thing),
            }
            row = {
                "id": segment.id,
                "image_id": 1,
                "category_id": category_id,
                "iscrowd": 0,
                "bbox": list(segment.box),
                "area": segment.area,
                "segmentation": rle,
            }
            if segment.score is not None:
                row["score"] = round(segment.score, 4)
            rows.append(row)
        image = {"id": 1, "file_name": self.file_name, "height": height, "width": width}
        return {
            "info": {
                "description": DESCRIPTION,
                "task": self.task,
                "dataset": self.info.name,
                "mask_values": get_task(self.task).mask_values,
            },
            "images": [image],
            "annotations": rows,
            "categories": [categories[key] for key in sorted(categories)],
        }

    def _areas_and_boxes(self) -> list[tuple[int, tuple[int, int, int, int]]]:
        masks, count = self.segmentation.masks, len(self.segmentation.labels)
        if masks is not None:
            return [_area_and_box(mask) for mask in masks]
        areas = np.bincount(self.id_map.ravel(), minlength=count + 1)[1:].tolist()
        places = ndimage.find_objects(self.id_map, max_label=count)
        return [
            (area, _box(*place) if place else (0, 0, 0, 0))
            for area, place in zip(areas, places, strict=True)
        ]

    def _run_lengths(self) -> list[dict[str, Any]]:
        """Returns COCO's compressed run lengths of each segment, as text."""
        masks = self.segmentation.masks
        # Run lengths go column by column: turned once, each mask is read in order.
        columns = np.asfortranarray(self.id_map) if masks is None else None
        rles = []
        for i in range(len(self.segmentation.labels)):
            mask = columns == i + 1 if masks is None else np.asfortranarray(masks[i])
            rle = _codec.encode(mask.view(np.uint8))
            height, width = rle["size"]
            counts = rle["counts"].decode("ascii")
            rles.append({"size": [int(height), int(width)], "counts": counts})
        return rles


def _area_and_box(
    mask: Bool[np.ndarray, "H W"],
) -> tuple[int, tuple[int, int, int, int]]:
    counts = np.count_nonzero(mask, axis=1)
    rows, columns = np.flatnonzero(counts), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, (0, 0, 0, 0)
    box = _box(slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return int(counts.sum()), box


def _box(rows: slice, columns: slice) -> tuple[int, int, int, int]:
    """Returns (left, top, width, height)."""
    left, top = int(columns.start), int(rows.start)
    return left, top, int(columns.stop) - left, int(rows.stop) - top

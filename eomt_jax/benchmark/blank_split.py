"""A split of black photographs, as large and as many as those of a published dataset.

It stands in for a dataset that isn't prepared, so that programs can be compiled.
"""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_codec

from eomt_jax.dataset_info import published_info
from eomt_jax.pipeline.options import DatasetOptions
from eomt_jax.pipeline.records import Record, open_split, prepared_versions
from eomt_jax.pipeline.samples import Source
from eomt_jax.task_registry import get_task
from eomt_jax.types import DatasetInfo


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Sizes of a dataset, which become fields of its DatasetInfo."""

    train: int
    validation: int
    max_image_size: tuple[int, int]
    max_segments: int
    max_aspect_ratio: float = 1.0


# Numbers of images and fixed sizes are from cocodataset.org (2017; for instances only
# photographs that have one), the ADE20K benchmark of 2016 and cityscapes-dataset.com.
# Numbers of segments, and ADE20K's sizes and ratios, are upper bounds; a prepared
# dataset has exact ones.
_SIZES = {
    "coco_panoptic": _Sizes(118_287, 5_000, (640, 640), 128, 8.0),
    "coco_instance": _Sizes(117_266, 5_000, (640, 640), 96, 8.0),
    "ade20k_panoptic": _Sizes(20_210, 2_000, (2048, 2048), 255, 4.0),
    "ade20k_semantic": _Sizes(20_210, 2_000, (2048, 2048), 150, 4.0),
    "cityscapes_semantic": _Sizes(2_975, 500, (1024, 2048), 19, 2.0),
}


class BlankSplit:
    """A `pipeline.samples.Source` of black photographs with one segment each.

    Attributes:
      info: the published classes, and sizes or upper bounds of them.
      split: "train" or "validation".
    """

    def __init__(self, name: str, split: str):
        """
        Raises:
          ValueError: no such published dataset or split.
        """
        if name not in _SIZES:
            raise ValueError(
                f"dataset {name!r} is neither prepared nor published: prepare it "
                f"(data/prepare.py, docs/own_data.md); known are {', '.join(_SIZES)}"
            )
        sizes = _SIZES[name]
        num_examples = {"train": sizes.train, "validation": sizes.validation}
        if split not in num_examples:
            raise ValueError(
                f"{name} is not prepared, so only its splits train and validation "
                f"can be compiled for, not {split!r}"
            )
        self.split = split
        self.info: DatasetInfo = dataclasses.replace(
            published_info(name),
            max_image_size=sizes.max_image_size,
            max_segments=sizes.max_segments,
            num_examples=num_examples,
            max_aspect_ratio=sizes.max_aspect_ratio,
        )

    def __len__(self) -> int:
        return self.info.num_examples[self.split]

    def image_id(self, index: int) -> str:
        return str(index)

    def __getitem__(self, index: int) -> Record:
        height, width = self.info.max_image_size
        encoded = io.BytesIO()
        Image.new("RGB", (width, height)).save(encoded, format="JPEG")
        segment = np.ones((height, width), np.uint8)
        masks: dict[str, Any] = {"segment_map": segment.astype(np.uint16)}
        if get_task(self.info.task).overlapping:
            rle = mask_codec.encode(np.asfortranarray(segment))
            masks = {
                "rles": (rle["counts"],),
                "areas": np.array([segment.sum()], float),
            }
        return Record(
            image_bytes=encoded.getvalue(),
            labels=np.zeros(1, np.int32),
            is_crowd=np.zeros(1, bool),
            image_id=self.image_id(index),
            height=height,
            width=width,
            **masks,
        )


def open_or_blank(data: DatasetOptions, split: str) -> Source:
    """Opens a split of a dataset, or a BlankSplit if it isn't prepared.

    Raises:
      ValueError: it is neither prepared nor published.
    """
    if prepared_versions(data.data_dir, data.name):
        return open_split(data.data_dir, data.name, split)
    return BlankSplit(data.name, split)

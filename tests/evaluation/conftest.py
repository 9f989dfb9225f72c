"""Twelve photographs of 6 × 4 pixels, as records and in batches of eight."""

import numpy as np
import pytest
from pycocotools import mask as mask_codec

from eomt_jax.pipeline.records import Record
from eomt_jax.types import Batch, ClassInfo, DatasetInfo, Targets

CANVAS, BATCH = (6, 8), 8
ID_MAP = np.array([[1, 1, 1, 2]] * 6, np.uint16)
LABELS = np.array([3, 0], np.int32)


class Photographs:
    """A prepared split that needs no files.

    The left 3 columns of each are class 3, which is stuff, the fourth is class 0.
    """

    split = "validation"
    image_bytes = b""

    def __init__(self, task):
        self.info = DatasetInfo(
            name="fake",
            classes=tuple(
                ClassInfo(k + 1, f"class {k}", k < 2, (40 * k, 90, 200))
                for k in range(4)
            ),
            max_image_size=CANVAS,
            max_segments=2,
            num_examples={"validation": 12},
            task=task,
        )

    def __len__(self):
        return 12

    def image_id(self, index):
        return f"photograph {index}"

    def __getitem__(self, index):
        assert 0 <= index < len(self)
        masks = {"segment_map": ID_MAP}
        if self.info.task == "instance":
            pixels = np.asfortranarray(ID_MAP[..., None] == [1, 2], np.uint8)
            rles = mask_codec.encode(pixels)
            masks = {
                "rles": tuple(rle["counts"] for rle in rles),
                "areas": np.array([18.0, 6.0]),
            }
        crowd = np.zeros(2, bool)
        return Record(self.image_bytes, LABELS, crowd, str(index), 6, 4, **masks)

    def batches(self, num_images=12):
        """Yields batches in host memory; the last one is filled up."""
        for start in range(0, num_images, BATCH):
            rows = start + np.arange(BATCH)
            id_map = np.zeros((BATCH, *CANVAS), np.uint8)
            id_map[:, :6, :4] = ID_MAP
            valid = rows < num_images
            yield Batch(
                image=np.zeros((BATCH, 16, 16, 3), np.uint8),
                targets=Targets(
                    labels=np.tile(LABELS, (BATCH, 1)),
                    valid=np.ones((BATCH, 2), bool),
                    is_crowd=np.zeros((BATCH, 2), bool),
                    id_map=None if self.info.task == "instance" else id_map,
                ),
                valid=valid,
                example_index=np.where(valid, rows, -1).astype(np.int32),
                content_size=np.full((BATCH, 2), 16, np.int32),
                original_size=np.tile(np.array([6, 4], np.int32), (BATCH, 1)),
            )


@pytest.fixture
def photographs():
    """Returns a function from a task to the split with annotations for it."""
    return Photographs

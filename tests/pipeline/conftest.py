"""Small drawn photographs whose segments can be recognised by their colours."""

import io

import numpy as np
import pytest
from PIL import Image

from eomt_jax.pipeline.records import Record
from eomt_jax.types import ClassInfo, DatasetInfo

# Class t is drawn in COLORS[t]. The colours differ much, so that blended borders are
# recognised.
COLORS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [250, 250, 20]])


class DrawnSource:
    """A split of drawn photographs, each with different classes in any order.

    Attributes:
      damaged: indices whose file ends in the middle.
      crowd_only: indices whose segments are all crowds.
    """

    split = "train"

    def __init__(self, num_examples, *, damaged=(), crowd_only=(), max_segments=4):
        self.num_examples = num_examples
        self.damaged = frozenset(damaged)
        self.crowd_only = frozenset(crowd_only)
        classes = tuple(
            ClassInfo(id=t, name=f"class {t}", is_thing=True, color=tuple(row.tolist()))
            for t, row in enumerate(COLORS)
        )
        self.info = DatasetInfo(
            name="drawn",
            classes=classes,
            max_image_size=(64, 80),
            max_segments=max_segments,
            num_examples={"train": num_examples},
        )

    def __len__(self):
        return self.num_examples

    def image_id(self, index):
        return f"photo-{index:03d}"

    def __getitem__(self, index):
        image, segment_map, labels = draw(index)
        is_crowd = np.zeros(labels.size, bool)
        is_crowd[:] = index in self.crowd_only
        encoded = encode(image)
        if index in self.damaged:
            encoded = encoded[: len(encoded) // 2]
        return Record(
            image_bytes=encoded,
            segment_map=segment_map,
            labels=labels,
            is_crowd=is_crowd,
            image_id=self.image_id(index),
            height=image.shape[0],
            width=image.shape[1],
        )


def draw(index):
    """Returns (image, segment_map, labels): a disc and two bars on grey, the void."""
    rng = np.random.default_rng(index)
    height, width = rng.integers(40, 65), rng.integers(50, 81)
    y, x = np.mgrid[:height, :width]
    segment_map = np.zeros((height, width), np.uint16)
    segment_map[:, : width // 4] = 1
    segment_map[height - height // 4 :] = 2
    center_y, center_x = rng.integers(10, 30), rng.integers(25, 45)
    segment_map[(y - center_y) ** 2 + (x - center_x) ** 2 < 10**2] = 3
    labels = rng.permutation(len(COLORS))[:3].astype(np.int32)
    palette = np.concatenate([[[128, 128, 128]], COLORS[labels]]).astype(np.uint8)
    return palette[segment_map], segment_map, labels


def encode(image, image_format="PNG", **options):
    encoded = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(encoded, format=image_format, **options)
    return encoded.getvalue()


@pytest.fixture
def drawn_source():
    """Returns DrawnSource, which is called with a number of examples."""
    return DrawnSource


@pytest.fixture
def encode_image():
    """Returns a function (image, format="PNG", **options) → bytes of the file."""
    return encode


@pytest.fixture
def class_colors():
    """Returns the RGB of each class of a DrawnSource."""
    return COLORS

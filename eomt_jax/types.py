"""Types of the values that the library's packages exchange.

Legend: B batch, Q queries, T targets (padded), T8 bytes for T bits, K classes, H W
pixels, S side of the network's input, h w patch grid.
"""

import dataclasses
import hashlib
import json
from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from eomt_jax.task_registry import task_names

Array = jax.Array | np.ndarray


@flax.struct.dataclass
class Targets:
    """Targets of a batch, with masks in one of two compact forms or without masks.

    Segments that don't overlap are one id map for each image. Segments that may overlap
    have one bit for each target and pixel. The evaluation of instances needs only
    labels on the device.

    Attributes:
      labels: class index of each target, 0 in padded rows.
      valid: False in padded rows.
      is_crowd: True for crowd regions; training drops them, evaluation keeps them.
      id_map: 0 where a pixel belongs to no target (void, padding, a dropped crowd),
        t + 1 where it belongs to target t; uint8 up to 255 targets, otherwise uint16.
      mask_bits: bit t % 8 of byte t // 8 is set where a pixel belongs to target t.

    Training with `ignore_void` marks void pixels and dropped crowds as an extra target
    T without a row, that is T + 1 in the id map, or bit T. Padding stays 0.
    """

    labels: Int[Array, "B T"]
    valid: Bool[Array, "B T"]
    is_crowd: Bool[Array, "B T"]
    id_map: Integer[Array, "B H W"] | None = None
    mask_bits: UInt8[Array, "B H W T8"] | None = None


@flax.struct.dataclass
class Batch:
    """Images and targets of a batch.

    In training the targets have the image's size. In evaluation `targets.id_map` has
    each photograph's original size, in the top left of one canvas for all, so that
    quality is measured on the pixels that were annotated.

    Attributes:
      image: RGB; rows and columns past `content_size` are 0. For an evaluation in
        windows there is a further axis for them; those past the photograph's last are
        0.
      targets: see Targets.
      valid: False for rows that only fill up the last batch of an evaluation.
      example_index: position of each image in its prepared split.
      content_size: (height, width) of the photograph within `image`; with windows, of
        the resized photograph that they are cut from.
      original_size: (height, width) of the photograph as published.
      replaced: True if another photograph stands in for one that is damaged or shows no
        target. None in evaluation, where nothing is replaced.
    """

    image: UInt8[Array, "B *windows S S 3"]
    targets: Targets
    valid: Bool[Array, " B"]
    example_index: Int[Array, " B"]
    content_size: Int[Array, "B 2"]
    original_size: Int[Array, "B 2"]
    replaced: Bool[Array, " B"] | None = None


@flax.struct.dataclass
class Outputs:
    """Predictions of the network, first to last, or only the last without masking.

    Attributes:
      mask_logits: float32 logits at a quarter of the image's size.
      class_logits: float32 logits; the last class is "no object".
    """

    mask_logits: tuple[Float[Array, "B Q h4 w4"], ...]
    class_logits: tuple[Float[Array, "B Q K1"], ...]


@dataclasses.dataclass(frozen=True)
class ClassInfo:
    """One class of a dataset; its position in the table is the label in training.

    Attributes:
      id: the class's number in the dataset's own files.
      name: the published name.
      is_thing: True for countable objects, False for stuff.
      color: RGB, 0 to 255, for pictures.
    """

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]


def _check_info(fields: Any) -> None:
    """Raises ValueError for the first field that isn't of DatasetInfo's types."""

    def check(name: str, good: bool, wanted: str, value: Any) -> None:
        if not good:
            raise ValueError(f"{name} = {value!r:.80}; wanted {wanted}")

    def is_count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 1 << 53

    def is_row(row: Any, size: int) -> bool:
        return isinstance(row, list) and len(row) == size and all(map(is_count, row))

    check("dataset", isinstance(fields, dict), "an object", fields)
    wanted = {field.name: field for field in dataclasses.fields(DatasetInfo)}
    for name, field in wanted.items():
        missing = name not in fields and field.default is dataclasses.MISSING
        check(name, not missing, "a value", None)
    for name, value in fields.items():
        check(name, name in wanted, f"one of {', '.join(wanted)}", value)
    rows: Any = fields["classes"]
    check("classes", isinstance(rows, list), "a list", rows)
    for row in rows:
        good = isinstance(row, dict) and row.keys() == {
            "id",
            "name",
            "is_thing",
            "color",
        }
        good = good and type(row["id"]) is int and isinstance(row["name"], str)
        good = good and isinstance(row["is_thing"], bool) and is_row(row["color"], 3)
        check("classes", good, "rows of id, name, is_thing, color", row)
    check("name", isinstance(fields["name"], str), "a text", fields["name"])
    size = fields["max_image_size"]
    check("max_image_size", is_row(size, 2), "[height, width]", size)
    segments = fields["max_segments"]
    check("max_segments", is_count(segments), "a whole number", segments)
    counts = fields["num_examples"]
    good = isinstance(counts, dict) and all(map(is_count, counts.values()))
    check("num_examples", good, "numbers by split", counts)
    task = fields.get("task", "panoptic")
    check("task", task in task_names(), f"one of {', '.join(task_names())}", task)
    ratio = fields.get("max_aspect_ratio", 1.0)
    good = isinstance(ratio, int | float) and 0 <= ratio < 1 << 53
    check("max_aspect_ratio", good, "a number", ratio)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Description of a prepared dataset: its classes and sizes.

    Attributes:
      name: the prepared dataset's name.
      task: name of the task that its annotations are made for.
      classes: the class table in label order.
      max_image_size: largest (height, width) over all photographs of all splits.
      max_segments: most segments in one image, crowds included.
      num_examples: images in each split.
      max_aspect_ratio: largest ratio of long to short side over all photographs.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    max_image_size: tuple[int, int]
    max_segments: int
    num_examples: dict[str, int]
    task: str = "panoptic"
    max_aspect_ratio: float = 1.0

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def is_thing(self) -> np.ndarray:
        """True for things, bool [K], in label order."""
        return np.array([c.is_thing for c in self.classes], dtype=bool)

    @property
    def fingerprint(self) -> str:
        """Hash of the classes and the numbers of images, independent of the folder."""
        content = {"classes": self.classes, "num_examples": self.num_examples}
        text = json.dumps(content, default=dataclasses.asdict, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "DatasetInfo":
        fields: Any = json.loads(text)
        _check_info(fields)
        classes = tuple(
            ClassInfo(**{**row, "color": tuple(row["color"])})
            for row in fields.pop("classes")
        )
        size = tuple(fields.pop("max_image_size"))
        return cls(classes=classes, max_image_size=size, **fields)

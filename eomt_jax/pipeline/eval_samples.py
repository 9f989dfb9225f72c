"""One prepared record → one evaluation sample."""

import dataclasses

import numpy as np

from eomt_jax.pipeline import targets, transforms
from eomt_jax.pipeline.samples import Sample, Source, load, naming_image


@dataclasses.dataclass(frozen=True)
class EvalSampler:
    """position → sample; a position past the last example gives an empty row.

    Damaged photographs always stop: with another one in its place a score would not
    be this dataset's.

    Attributes:
      source: the prepared split.
      num_examples: how many of its examples are evaluated, from the first on.
      image_size: side of the square input.
      canvas_size: (height, width) of the id map, no smaller than any photograph.
      max_targets: rows of the padded targets, crowds included.
    """

    source: Source
    num_examples: int
    image_size: int
    canvas_size: tuple[int, int]
    max_targets: int

    def __call__(self, position: int) -> Sample:
        if position >= self.num_examples:
            return self._empty_row()
        record, image = load(self.source, position)
        size: tuple[int, int] = record.size
        with naming_image(self.source, position):
            if size[0] > self.canvas_size[0] or size[1] > self.canvas_size[1]:
                raise ValueError(
                    f"{size[0]}×{size[1]} pixels don't fit the canvas of "
                    f"{self.canvas_size[0]}×{self.canvas_size[1]} for original sizes"
                )
            compact = targets.compact_targets(
                targets.segment_masks(record),
                np.ones(record.labels.size, bool),
                labels=record.labels,
                is_crowd=record.is_crowd,
                size=self.canvas_size,
                max_targets=self.max_targets,
            )
        return {
            "image": transforms.fit_image(image, self.image_size),
            "targets": compact,
            "valid": np.bool_(True),
            "example_index": np.int32(position),
            "content_size": np.array(
                transforms.fit_size(*size, self.image_size), np.int32
            ),
            "original_size": np.array(size, np.int32),
        }

    def _empty_row(self) -> Sample:
        """Black, without targets; its sizes are legal so that nothing divides by 0."""
        return {
            "image": np.zeros((self.image_size, self.image_size, 3), np.uint8),
            "targets": targets.compact_targets(
                targets.IdMap(np.zeros((1, 1), np.uint8), 0),
                np.zeros(0, bool),
                labels=np.zeros(0, np.int32),
                is_crowd=np.zeros(0, bool),
                size=self.canvas_size,
                max_targets=self.max_targets,
            ),
            "valid": np.bool_(False),
            "example_index": np.int32(-1),
            "content_size": np.array([self.image_size] * 2, np.int32),
            "original_size": np.array(self.canvas_size, np.int32),
        }

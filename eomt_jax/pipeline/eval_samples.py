"""Makes one evaluation sample from one prepared record."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from eomt_jax.pipeline import targets, transforms
from eomt_jax.pipeline.samples import Sample, Source, load, naming_image


@dataclasses.dataclass(frozen=True)
class EvalSampler:
    """Maps a position to its sample; one past the last example gives an empty row.

    A damaged photograph is always an error: with another one in its place the score
    would not be this dataset's.

    Attributes:
      source: the prepared split.
      num_examples: how many of its examples are evaluated, from the first on.
      image_size: side of the square input.
      canvas_size: (height, width) of the id map, no smaller than any photograph.
      max_targets: rows of the padded targets, crowds included.
      windows: whether the photograph is cut into windows or fitted and padded.
      overlapping: whether what is evaluated may overlap: targets then have no masks,
        which the metric takes from the records, else an id map.
    """

    source: Source
    num_examples: int
    image_size: int
    canvas_size: tuple[int, int]
    max_targets: int
    windows: bool = False
    overlapping: bool = False

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
                self._masks(record),
                np.ones(record.labels.size, bool),
                labels=record.labels,
                is_crowd=record.is_crowd,
                size=self.canvas_size,
                max_targets=self.max_targets,
            )
            pixels, content_size = self._input(image)
        return {
            "image": pixels,
            "targets": compact,
            "valid": np.bool_(True),
            "example_index": np.int32(position),
            "content_size": np.array(content_size, np.int32),
            "original_size": np.array(size, np.int32),
        }

    def _masks(self, record: Any) -> targets.SegmentMasks | None:
        if self.overlapping:
            return None
        if record.segment_map is None:
            raise ValueError(
                "its segments may overlap, which this evaluation can't score: evaluate "
                'this dataset with task "instance"'
            )
        return targets.segment_masks(record)

    def _input(self, image: Image.Image) -> tuple[np.ndarray, tuple[int, int]]:
        """Returns the network's input, and the size of the photograph within it."""
        size = self.image_size
        if not self.windows:
            content_size = transforms.fit_size(image.height, image.width, size)
            return transforms.fit_image(image, size), content_size
        content_size = transforms.cover_size(image.height, image.width, size)
        count = transforms.num_windows(max(content_size), size)
        if count > self._max_windows:
            raise ValueError(
                f"{image.height}×{image.width} pixels take {count} windows, but the "
                f"prepared dataset's aspect ratio of {self.source.info.max_aspect_ratio} "
                f"asks for at most {self._max_windows}: prepare it anew"
            )
        return transforms.cut_windows(image, size, self._max_windows), content_size

    @property
    def _max_windows(self) -> int:
        ratio = self.source.info.max_aspect_ratio
        return transforms.max_windows(ratio, self.image_size)

    def _empty_row(self) -> Sample:
        """Returns a black row without targets, whose original size is one pixel."""
        windows = [self._max_windows] if self.windows else []
        no_masks = targets.IdMap(np.zeros((1, 1), np.uint8), 0)
        return {
            "image": np.zeros((*windows, *[self.image_size] * 2, 3), np.uint8),
            "targets": targets.compact_targets(
                None if self.overlapping else no_masks,
                np.zeros(0, bool),
                labels=np.zeros(0, np.int32),
                is_crowd=np.zeros(0, bool),
                size=self.canvas_size,
                max_targets=self.max_targets,
            ),
            "valid": np.bool_(False),
            "example_index": np.int32(-1),
            "content_size": np.array([self.image_size] * 2, np.int32),
            "original_size": np.array([1, 1], np.int32),
        }

"""Makes one training sample from one prepared record.

This runs in grain's threads or worker processes, so it uses NumPy and Pillow, not JAX.
A training sample is a pure function of the seed and its position in the endless
stream of examples, whatever thread or process makes it. Its random numbers drive, in
this order, its colours and geometry, every redraw, and the choice of a substitute.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from absl import logging
from PIL import Image

from eomt_jax.pipeline import color, targets, transforms
from eomt_jax.pipeline.options import AugmentationOptions, DatasetOptions

# A crop that misses every target is rare and drawn again. After this many draws the
# photograph counts as one without a target.
MAX_DRAWS = 16
# So many photographs are tried in place of one that is damaged or shows no target.
MAX_SUBSTITUTES = 16

# The first word of the seeds, so that order and augmentation use different numbers.
_ORDER, _AUGMENTATION = 0, 1

Sample = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """The part of pipeline.records.RecordSource that the pipeline uses."""

    info: Any
    split: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def image_id(self, index: int) -> str: ...


class DamagedImageError(ValueError):
    """A photograph of a prepared dataset cannot be decoded."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(AugmentationOptions):
    """Options for making training samples from records.

    Attributes:
      image_size: side S of the square crop, in pixels.
      max_targets, on_damaged: see DatasetOptions.
      mark_void: targets say which pixels are void or a crowd's (see types.Targets).
    """

    image_size: int
    max_targets: int = DatasetOptions.max_targets
    on_damaged: Literal["stop", "replace"] = DatasetOptions.on_damaged
    mark_void: bool = False

    def __post_init__(self):
        low, high = self.scale_range
        if not 0 < low <= high:
            raise ValueError(f"scale_range must be 0 < low ≤ high, got {low, high}")
        if self.image_size < 1 or self.max_targets < 0:
            raise ValueError(
                "image_size must be at least 1 and max_targets at least 0, got "
                f"{self.image_size} and {self.max_targets}"
            )
        if self.on_damaged not in ("stop", "replace"):
            raise ValueError(
                f"on_damaged must be 'stop' or 'replace', not {self.on_damaged!r}"
            )


@dataclasses.dataclass(frozen=True)
class TrainSampler:
    """Maps a position in the stream of training examples to its sample.

    Attributes:
      source: the prepared split.
      options: see TrainOptions.
      seed: decides the order and the augmentation.
      epoch_length: positions in an epoch; see loader.epoch_length.
    """

    source: Source
    options: TrainOptions
    seed: int
    epoch_length: int

    @property
    def max_targets(self) -> int:
        return self.options.max_targets or max(1, self.source.info.max_segments)

    def __call__(self, position: int) -> Sample:
        epoch, step = divmod(position, self.epoch_length)
        index = int(example_order(len(self.source), self.seed, epoch)[step])
        rng = _generator(_AUGMENTATION, self.seed, position)
        replaced = False
        for _ in range(1 + MAX_SUBSTITUTES):
            sample = self._sample(index, rng)
            if sample is not None:
                return {**sample, "replaced": np.bool_(replaced)}
            index = int(rng.integers(len(self.source)))
            replaced = True
        raise ValueError(
            f"{1 + MAX_SUBSTITUTES} photographs in a row of {_name(self.source)} are "
            "damaged or show no target: look at the prepared dataset (data/preview.py)"
        )

    def _sample(self, index: int, rng: np.random.Generator) -> Sample | None:
        """Returns None if the photograph is damaged or shows no target in any draw.

        A photograph that has no segment at all, not even a crowd, is a negative, and is
        used without a target.
        """
        options = self.options
        record = self.source[index]
        keep = ~record.is_crowd
        with naming_image(self.source, index):
            targets.check_num_targets(int(keep.sum()), self.max_targets)
            masks = targets.segment_masks(record)
        # Negatives are in a dataset that was prepared with them; all queries learn
        # "no object" from them.
        is_negative = not record.labels.size
        for _ in range(MAX_DRAWS if keep.any() or is_negative else 0):
            jitter = color.draw_color_jitter(rng) if options.color_jitter else None
            geometry = transforms.draw_geometry(
                rng,
                record.size,
                crop_size=options.image_size,
                scale_range=options.scale_range,
            )
            # Targets are cropped first: a draw that loses them all costs no work on
            # the image.
            cropped = masks.crop(geometry)
            visible = keep & cropped.visible()
            if visible.any() or is_negative:
                break
        else:
            return None
        try:
            image = decode(self.source, record, resized=geometry.resized)
        except DamagedImageError as error:
            if options.on_damaged == "stop":
                raise
            logging.warning("%s; another one takes its place", error)
            return None
        if jitter is not None:
            image = color.jitter_color(image, jitter)
        size = options.image_size
        return {
            "image": transforms.crop_image(image, geometry),
            "targets": targets.compact_targets(
                cropped,
                visible,
                labels=record.labels,
                is_crowd=record.is_crowd,
                size=(size, size),
                max_targets=self.max_targets,
                mark_void=options.mark_void,
            ),
            "valid": np.bool_(True),
            "example_index": np.int32(index),
            "content_size": np.array(geometry.content_size, np.int32),
            "original_size": np.array(record.size, np.int32),
        }


@functools.lru_cache(maxsize=4)
def example_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation of all examples that depends on seed and epoch alone.

    It sorts raw bits of a counter-based generator, which NumPy keeps the same from
    release to release; for `permutation` it doesn't promise that.
    """
    bits = _bit_generator(_ORDER, seed, epoch).random_raw(num_examples)
    order = np.argsort(bits, kind="stable").astype(np.int32)
    order.flags.writeable = False
    return order


def load(source: Source, index: int) -> tuple[Any, Image.Image]:
    """Returns a record and its decoded photograph.

    Raises:
      DamagedImageError: naming the image, the dataset and the split.
    """
    record = source[index]
    return record, decode(source, record)


def decode(
    source: Source, record: Any, *, resized: tuple[int, int] | None = None
) -> Image.Image:
    """Returns a record's photograph, already smaller if `resized` is much smaller.

    Raises:
      DamagedImageError: see load.
    """
    try:
        return transforms.decode_image(
            record.image_bytes, size=record.size, resized=resized
        )
    except ValueError as error:
        raise DamagedImageError(
            f"damaged image {record.image_id!r} in {_name(source)}: {error}. Prepare "
            "the dataset anew from intact archives, or train without such images: "
            "config.dataset.on_damaged='replace'"
        ) from error


def _name(source: Source) -> str:
    return f"dataset {source.info.name!r}, split {source.split!r}"


@contextlib.contextmanager
def naming_image(source: Source, index: int) -> Iterator[None]:
    """Adds the image's id to a ValueError that passes through."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"image {source.image_id(index)!r} in {_name(source)}: {error}"
        ) from error


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(_bit_generator(*words))


def _bit_generator(*words: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence(words))

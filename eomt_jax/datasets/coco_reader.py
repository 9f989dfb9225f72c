"""The base of readers that make records of a COCO table and the photographs beside it.

Legend: T segments of one image.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from eomt_jax.datasets.coco_table import CocoTable, not_of_the_format
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.photographs import (
    check_photograph,
    read_file,
    stored_and_upright_size,
    turn_upright,
)
from eomt_jax.datasets.sources import some
from eomt_jax.datasets.spellings import last_part
from eomt_jax.pipeline.records import Record
from eomt_jax.types import ClassInfo


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """One photograph and what the JSON says of it.

    Attributes:
      image_id: the file's name without its ending where that is the id, else the id.
      height: in pixels, 0 where the JSON doesn't say.
      width: in pixels, 0 where the JSON doesn't say.
      file_name: of the photograph, as the JSON has it.
      labels: int32 [T], class index of each segment.
      is_crowd: bool [T].
      masks: what the reader makes the segments' masks of.
    """

    image_id: str
    height: int
    width: int
    file_name: str
    labels: np.ndarray
    is_crowd: np.ndarray
    masks: Any

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


class CocoReader(abc.ABC):
    """Makes records of one JSON and the photographs that it annotates.

    Attributes:
      format: its name, for messages.
      evaluates_empty: whether photographs without a segment count in validation.
      has_sizes: whether the format says how large photographs are.
      name: of the JSON, for messages.
      images: everything the JSON names, in its order.
      photographs: where the photographs are.
      lack: why segments are missing, for messages where all are.
      note: reports what doesn't stop the build, as RecordBuilder.note does.
    """

    format: ClassVar[str]
    lack: str = ""
    evaluates_empty: ClassVar[bool] = False
    has_sizes: ClassVar[bool] = True

    def __init__(
        self,
        table: CocoTable,
        photographs: FileFinder,
        *,
        classes: Sequence[ClassInfo],
        note: Callable[..., None],
        turns_upright: bool = False,
    ):
        """Raises ValueError where the table isn't of the format, or has other classes."""
        self.name = table.name
        self.photographs = photographs
        self.note = note
        self._turns_upright = turns_upright
        labels = {c.id: label for label, c in enumerate(classes)}
        _check_categories(table, classes)
        photographs.register(row["file_name"] for row in table.images.values())
        try:
            self.images = self._read_images(table, labels)
        except _UnknownCategoryError as error:
            raise ValueError(
                f"{table.name} has segments of category_id {error}, which is not among "
                f"its categories; {table.source}"
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise not_of_the_format(
                table.name, self.format, table.source, error
            ) from error

    @abc.abstractmethod
    def _read_images(
        self, table: CocoTable, labels: Mapping[int, int]
    ) -> list[AnnotatedImage]:
        """Returns the table's images; `labels` are class indices by category id."""

    @abc.abstractmethod
    def make_record(self, image: AnnotatedImage, *, split: str) -> Record | None:
        """Returns the record of one image of a split; None leaves it out."""

    def order(self, image: AnnotatedImage) -> int:
        """Returns the place of the file that is best read in the archive's order."""
        return self.photographs.order(image.file_name)

    def check_files(self, images: Sequence[AnnotatedImage]) -> None:
        """Raises ValueError where a file of the images isn't there."""
        names = [image.file_name for image in images]
        self._check_files(self.photographs, names)

    def _check_files(self, finder: FileFinder, names: Sequence[str]) -> None:
        finder.check_all_there(names, annotated_in=self.name)
        respelt = [name for name in names if finder.is_respelt(name)]
        if respelt:
            self.note(
                "files found under names that differ in letter case, accents or \\",
                *respelt,
            )

    def read_photograph(self, image: AnnotatedImage) -> tuple[bytes, AnnotatedImage]:
        """Returns the photograph's bytes, and the image with the size that it has.

        Raises:
          ValueError: the photograph isn't as annotated.
        """

        def note(what: str) -> None:
            self.note(what, image.image_id)

        encoded = read_file(lambda: self.photographs.read(image.file_name))
        if self._turns_upright:
            image = self._settle_size(image, encoded)
            encoded = turn_upright(encoded, size=image.size, note=note)
        check_photograph(encoded, size=image.size, file=image.file_name)
        return encoded, image

    @abc.abstractmethod
    def fits(self, image: AnnotatedImage, size: tuple[int, int]) -> bool:
        """Returns whether annotations can be of a photograph of (height, width)."""

    def _settle_size(self, image: AnnotatedImage, encoded: bytes) -> AnnotatedImage:
        """Returns the image in the size that its annotations are made for.

        Some tools write the size of the file as stored beside corners of the photograph
        as it is shown. Where they leave the one and fit the other, that is the size, and
        so it is for the JSON's other photographs that fit both.
        """
        sizes = stored_and_upright_size(encoded)
        if sizes is None:
            return image  # check_photograph says what is wrong with it
        stored, upright = sizes
        if not all(image.size):
            if self.has_sizes:
                what = "images without width and height, taken from their photographs"
                self.note(what, image.image_id)
            fits = self.fits(image, upright) or not self.fits(image, stored)
            return _with_size(image, upright if fits else stored)
        if upright == stored or image.size not in sizes:
            return image
        is_stored = image.size == stored
        other = upright if is_stored else stored
        is_sure = not self.fits(image, image.size) or (
            is_stored and self._sizes_are_as_stored
        )
        if not is_sure or not self.fits(image, other):
            return image
        written, meant = ("as stored", "as EXIF turns it")[:: 1 if is_stored else -1]
        self.note(
            f"photographs whose annotations fit {meant}, beside a size {written}",
            image.image_id,
        )
        return _with_size(image, other)

    @functools.cached_property
    def _sizes_are_as_stored(self) -> bool:
        """Returns whether some annotations fit only as EXIF turns their photograph."""
        for image in self.images:
            turned = image.width, image.height
            is_suspect = not self.fits(image, image.size) and self.fits(image, turned)
            if (
                all(image.size)
                and is_suspect
                and self.photographs.find(image.file_name)
            ):
                encoded = self.photographs.read(image.file_name)
                if stored_and_upright_size(encoded) == (image.size, turned):
                    return True
        return False


def annotated_image(row: Mapping[str, Any], segments, masks: Any) -> AnnotatedImage:
    """Returns one image of a table.

    Args:
      row: of the JSON's images.
      segments: (label, is_crowd) of each.
      masks: see AnnotatedImage.
    """
    file_name, image_id = row["file_name"], str(row["id"])
    stem = last_part(file_name).rpartition(".")[0]
    is_id = stem.isdecimal() and image_id.isdecimal() and int(stem) == int(image_id)
    values = np.array(segments, np.int32).reshape(-1, 2)
    return AnnotatedImage(
        image_id=stem if is_id else image_id,
        height=int(row.get("height") or 0),
        width=int(row.get("width") or 0),
        file_name=file_name,
        labels=values[:, 0],
        is_crowd=values[:, 1].astype(bool),
        masks=masks,
    )


def _with_size(image: AnnotatedImage, size: tuple[int, int]) -> AnnotatedImage:
    return dataclasses.replace(image, height=size[0], width=size[1])


def label_of(category_id: int, labels: Mapping[int, int]) -> int:
    """Returns the class index of a category; its error is reported by CocoReader."""
    if category_id not in labels:
        raise _UnknownCategoryError(category_id)
    return labels[category_id]


class _UnknownCategoryError(Exception):
    """A category_id without a category."""


def _check_categories(table: CocoTable, classes: Sequence[ClassInfo]) -> None:
    known = {row.get("id") for row in table.categories}
    missing = [f"{c.id} ({c.name})" for c in classes if c.id not in known]
    if missing:
        raise ValueError(
            f"{table.name} lacks {len(missing)} of the {len(classes)} categories: "
            f"{some(missing)}; {table.source}"
        )

"""Reads label maps: PNGs whose pixels are numbers of classes.

Legend: H W pixels, T segments of one image, K classes.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int, Integer, UInt16

from eomt_jax.datasets import mask_pngs
from eomt_jax.datasets.builder import RecordBuilder
from eomt_jax.datasets.photographs import check_photograph
from eomt_jax.datasets.sources import Source, some
from eomt_jax.pipeline.records import Record
from eomt_jax.types import ClassInfo

_NUM_VALUES = 1 << 16
UNKNOWN = _NUM_VALUES - 1


@dataclasses.dataclass(frozen=True)
class Item:
    """One photograph and its label map: the sources, and the files' names in them."""

    image_id: str
    photographs: Source
    photograph: str
    label_maps: Source
    label_map: str


class LabelMapBuilder(RecordBuilder):
    """A builder of semantic records: a segment for each class that an image shows.

    A subclass sets `codes` (see `class_codes`) before the first record, and defines
    `plan`, whose items are `Item`s.

    Attributes:
      leaves_out_uniform: whether photographs with a label map of one value alone are
        left out, as the method's authors do.
    """

    task: str = "semantic"
    leaves_out_uniform = True
    codes: UInt16[np.ndarray, " V"]

    def num_bytes(self, item: Item) -> int:
        return item.photographs.size(item.photograph)

    def make_record(self, item: Item) -> Record | None:
        values = self.read_values(item)
        photograph, size = self.read_photograph(item, values.shape)
        values = self.fit(values, size, item.label_map)
        if self.leaves_out_uniform and values.min() == values.max():
            self.note("images with one value all over, left out", item.image_id)
            return None
        segment_map, labels = self.find_segments(item, values)
        if not len(labels):
            self.note("images without a labelled pixel, left out", item.image_id)
            return None
        return Record(
            image_bytes=photograph,
            segment_map=segment_map,
            labels=labels,
            is_crowd=np.zeros(len(labels), bool),
            image_id=item.image_id,
            file_name=item.photograph,
            height=size[0],
            width=size[1],
        )

    def read_values(self, item: Item) -> UInt16[np.ndarray, "H W"]:
        """Returns the label map; ValueError where it is none."""
        encoded = item.label_maps.read(item.label_map)
        return mask_pngs.read_label_map(encoded, file=item.label_map)

    def read_photograph(
        self, item: Item, size: tuple[int, int]
    ) -> tuple[bytes, tuple[int, int]]:
        """Returns a photograph's file and its (height, width).

        Args:
          item: whose photograph.
          size: (height, width) of its label map.

        Raises:
          ValueError: the file is damaged.
        """
        del size
        encoded = item.photographs.read(item.photograph)
        return encoded, check_photograph(encoded, file=item.photograph)

    def fit(
        self, values: UInt16[np.ndarray, "H W"], size: tuple[int, int], file: str
    ) -> UInt16[np.ndarray, "h w"]:
        """Returns the map of the photograph's size; ValueError where it has another."""
        if values.shape != size:
            raise ValueError(
                f"{file} has {values.shape[0]} x {values.shape[1]} pixels, but its "
                f"photograph has {size[0]} x {size[1]}"
            )
        return values

    def find_segments(
        self, item: Item, values: Integer[np.ndarray, "H W"]
    ) -> tuple[UInt16[np.ndarray, "H W"], Int[np.ndarray, " T"]]:
        """Returns (id map, label of each segment) of a map in the photograph's size."""
        codes = encode_classes(values, self.codes, file=item.label_map)
        segment_map, present = number_segments(codes)
        return segment_map, present.astype(np.int32) - 1


def class_codes(
    classes: Sequence[ClassInfo],
    *,
    void: Iterable[int],
    remap: Mapping[int, int | None] | None = None,
) -> UInt16[np.ndarray, " V"]:
    """Returns the code of each value of a label map.

    Args:
      classes: `id` is the value of a class.
      void: values that stand for none.
      remap: values that stand for the class of another one; None for no class.

    Returns:
      By value: label + 1, 0 for none, and a number of its own for unknown values.
    """
    codes = np.full(_NUM_VALUES, UNKNOWN, np.uint16)
    codes[list(void)] = 0
    for label, row in enumerate(classes):
        codes[row.id] = label + 1
    by_class = codes.copy()
    for value, target in (remap or {}).items():
        codes[value] = 0 if target is None else by_class[target]
    return codes


def encode_classes(
    values: Integer[np.ndarray, "H W"],
    codes: UInt16[np.ndarray, " V"],
    *,
    file: str,
    advice: str = "",
) -> UInt16[np.ndarray, "H W"]:
    """Returns the codes of a label map.

    Raises:
      ValueError: it has values of no class; they are named, and the advice is given.
    """
    encoded = codes[values]
    if encoded.max() == UNKNOWN:
        unknown = np.unique(values[encoded == UNKNOWN])
        known = np.flatnonzero(codes != UNKNOWN)
        raise ValueError(
            f"{file} has the value {', '.join(map(str, unknown[:5]))}, which stands "
            f"for no class; known: {_spell(known)}{advice}"
        )
    return encoded


def number_segments(
    codes: UInt16[np.ndarray, "H W"],
) -> tuple[UInt16[np.ndarray, "H W"], Int[np.ndarray, " T"]]:
    """Returns (id map, its codes in order): each code above 0 is a segment."""
    present = np.flatnonzero(np.bincount(codes.ravel(), minlength=1))
    present = present[present > 0]
    numbers = np.zeros(_NUM_VALUES, np.uint16)
    numbers[present] = np.arange(1, len(present) + 1)
    return numbers[codes], present


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns rows and columns floor(i·in/out), as the authors resize masks."""
    if array.shape[:2] == size:
        return array
    rows, columns = (
        np.arange(new) * old // new
        for new, old in zip(size, array.shape[:2], strict=True)
    )
    return array[rows[:, None], columns]


def files_by_stem(source: Source, folder: str, ending: str) -> dict[str, str]:
    """Returns the files in `folder` with that ending, by what comes before it."""
    return {
        name.removesuffix(ending): folder + name
        for name in source.names(folder)
        if name.endswith(ending)
    }


def check_paired(
    first: Mapping[str, str], second: Mapping[str, str], *, where: tuple[str, str]
) -> None:
    """Raises ValueError with the files of either side that the other has none for."""
    lines = [
        f"{len(lone):,} files in {here} have none in {there}: {some(lone)}"
        for files, others, here, there in (
            (first, second, *where),
            (second, first, *reversed(where)),
        )
        if (lone := [files[stem] for stem in files.keys() - others.keys()])
    ]
    if lines:
        raise ValueError("\n".join(lines))


def _spell(numbers: np.ndarray) -> str:
    """Returns sorted numbers in ranges: "0 to 18, 255"."""
    ranges = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in ranges)

"""What readers of label maps share: PNGs whose pixels are numbers of classes.

Legend: H W pixels, T segments of one image, K classes.
"""

import dataclasses
import functools
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Integer, UInt8, UInt16
from PIL import Image

from data.builder import RecordBuilder
from data.photographs import check_photograph
from data.sources import Source, some
from eomt_jax.pipeline.records import Record
from eomt_jax.rgb import short_reason
from eomt_jax.types import ClassInfo, Task

_NUM_VALUES = 1 << 16
UNKNOWN = _NUM_VALUES - 1
# Pillow spreads grey of fewer than eight bits over 0 to 255.
_SPREAD = {"L;2": 85, "L;4": 17}
_INDEX_MODES = ("1", "L", "P", "I;16", "I")


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

    task: Task = "semantic"
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
            height=size[0],
            width=size[1],
        )

    def read_values(self, item: Item) -> UInt16[np.ndarray, "H W"]:
        """The label map; ValueError where it is none."""
        encoded = item.label_maps.read(item.label_map)
        return read_label_map(encoded, file=item.label_map)

    def read_photograph(
        self, item: Item, size: tuple[int, int]
    ) -> tuple[bytes, tuple[int, int]]:
        """A photograph's file and its (height, width).

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
        """The label map in the photograph's size; ValueError where it has another."""
        if values.shape != size:
            raise ValueError(
                f"{file} has {values.shape[0]} x {values.shape[1]} pixels, but its "
                f"photograph has {size[0]} x {size[1]}"
            )
        return values

    def find_segments(
        self, item: Item, values: Integer[np.ndarray, "H W"]
    ) -> tuple[UInt16[np.ndarray, "H W"], Int[np.ndarray, " T"]]:
        """(id map, label of each segment) of a label map in the photograph's size."""
        codes = encode_classes(values, self.codes, file=item.label_map)
        segment_map, present = number_segments(codes)
        return segment_map, present.astype(np.int32) - 1


def class_codes(
    classes: Sequence[ClassInfo],
    *,
    void: Iterable[int],
    remap: Mapping[int, int | None] | None = None,
) -> UInt16[np.ndarray, " V"]:
    """What each value of a label map stands for.

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
    """The codes of a label map; ValueError naming the values that no class has, and
    giving the advice."""
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
    """(id map, its codes in order): each code above 0 is a segment."""
    present = np.flatnonzero(np.bincount(codes.ravel(), minlength=1))
    present = present[present > 0]
    numbers = np.zeros(_NUM_VALUES, np.uint16)
    numbers[present] = np.arange(1, len(present) + 1)
    return numbers[codes], present


@dataclasses.dataclass(frozen=True)
class Pixels:
    """What a PNG of masks holds: numbers, colours, or numbers with a palette of colours.

    Attributes:
      indices: uint16 [H, W]; None of a PNG with three channels.
      rgb: uint8 [H, W, 3]; None of a grey PNG.
    """

    indices: np.ndarray | None
    rgb: np.ndarray | None

    @functools.cached_property
    def is_grey_in_colors(self) -> bool:
        """Whether three channels are alike, as grey is when it is saved as RGB."""
        return self.indices is None and bool(
            (self._rgb() == self._rgb()[..., :1]).all()
        )

    def values(self, *, file: str) -> np.ndarray:
        """Numbers, uint16 [H, W]; ValueError naming the file where it has colours."""
        if self.indices is not None:
            return self.indices
        if self.is_grey_in_colors:
            return self._rgb()[..., 0].astype(np.uint16)
        raise ValueError(
            f"{file} has colours ({spell_colors(self.colors())}), but a label map has "
            "the number of a class in each pixel: save it with one channel, grey or "
            "palette; mask_folder also takes classes with the color of each"
        )

    def shown_colors(self) -> np.ndarray | None:
        """int [H, W]: 0xRRGGBB as viewers show it; None of grey of 16 bits."""
        if self.rgb is not None:
            return self.colors()
        assert self.indices is not None
        has_8_bits = self.indices.max() <= 255
        return self.indices.astype(np.int32) * 0x010101 if has_8_bits else None

    def colors(self) -> np.ndarray:
        """int [H, W]: 0xRRGGBB; not of a grey PNG."""
        red, green, blue = np.moveaxis(self._rgb().astype(np.int32), -1, 0)
        return red << 16 | green << 8 | blue

    def _rgb(self) -> np.ndarray:
        assert self.rgb is not None
        return self.rgb


def read_pixels(encoded: bytes, *, file: str) -> Pixels:
    """The numbers or colours in a PNG, whatever its channels or bit depth.

    Raises:
      ValueError: the file is damaged, no PNG, has colours of 16 bits, or pixels that
        one sees through.
    """
    image: Any = _open_png(encoded, file)
    if image.mode in _INDEX_MODES:
        spread = next((_SPREAD[t.args] for t in image.tile if t.args in _SPREAD), 1)
        indices = _decode(image, file).astype(np.uint16) // spread
        rgb = np.asarray(image.convert("RGB")) if image.mode == "P" else None
        return Pixels(indices, rgb)
    if any(str(tile.args).endswith("16B") for tile in image.tile):
        raise ValueError(
            f"{file} has colours of 16 bits a channel, of which Pillow reads 8: save it "
            "with one channel, grey or palette"
        )
    channels = _decode(image, file)
    if image.mode in ("LA", "RGBA"):
        if channels[..., -1].min() < 255:
            raise ValueError(
                f"{file} is transparent in places (alpha below 255), which stands for no "
                "class: save it without alpha"
            )
        channels = channels[..., :-1]
    if channels.shape[-1] == 1:
        return Pixels(channels[..., 0].astype(np.uint16), None)
    if channels.ndim != 3 or channels.shape[-1] != 3:
        raise ValueError(f"{file} has the channels {image.mode}, which no mask has")
    return Pixels(None, channels)


def read_label_map(encoded: bytes, *, file: str) -> UInt16[np.ndarray, "H W"]:
    """The numbers in a PNG of one channel, whatever its palette or bit depth.

    Raises:
      ValueError: see read_pixels; or the file has colours.
    """
    return read_pixels(encoded, file=file).values(file=file)


def read_rgb(encoded: bytes, *, file: str) -> UInt8[np.ndarray, "H W 3"]:
    """The channels of a PNG that has three; ValueError where it hasn't."""
    image = _open_png(encoded, file)
    if image.mode != "RGB":
        raise ValueError(f"{file} has the channels {image.mode}, not RGB")
    return _decode(image, file)


def size_of(encoded: bytes, *, file: str) -> tuple[int, int]:
    """(height, width) of a PNG; ValueError where it is none."""
    image = _open_png(encoded, file)
    return image.height, image.width


def spell_colors(colors: np.ndarray) -> str:
    """The first few different ones of 0xRRGGBB, as in "#ff0000, #00ff00 and 2 more"."""
    names = [f"#{color:06x}" for color in np.unique(colors)]
    return some(names)


def _open_png(encoded: bytes, file: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=["PNG"])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = "is empty" if not encoded else f"is no PNG ({short_reason(error)})"
        raise ValueError(f"{file} {what}") from error


def _decode(image: Image.Image, file: str) -> np.ndarray:
    try:
        return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} can't be decoded ({error})") from error


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rows and columns floor(i·in/out), as the method's authors resize masks."""
    if array.shape[:2] == size:
        return array
    rows, columns = (
        np.arange(new) * old // new
        for new, old in zip(size, array.shape[:2], strict=True)
    )
    return array[rows[:, None], columns]


def files_by_stem(source: Source, folder: str, ending: str) -> dict[str, str]:
    """Names of the files in `folder` with that ending, by what comes before it."""
    return {
        name.removesuffix(ending): folder + name
        for name in source.names(folder)
        if name.endswith(ending)
    }


def check_paired(
    first: Mapping[str, str], second: Mapping[str, str], *, where: tuple[str, str]
) -> None:
    """ValueError listing the files of either side that the other has none for."""
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
    """Sorted numbers in ranges: "0 to 18, 255"."""
    ranges = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in ranges)

"""A user's photographs with a PNG each whose pixels are numbers or colours of classes.

A mask is as large as its photograph, which is turned as its EXIF says where the mask was
drawn on it that way; see `photographs.turn_upright`. Which mask belongs to which
photograph, `paired_files` says.

Legend: H W pixels.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from eomt_jax.datasets import label_maps, mask_pngs, paired_files
from eomt_jax.datasets.class_lists import Remap, number, read_class_list, read_remap
from eomt_jax.datasets.label_maps import Item
from eomt_jax.datasets.photographs import check_photograph, read_file, turn_upright
from eomt_jax.datasets.splits import Share, draw_splits
from eomt_jax.types import ClassInfo

_UNKNOWN_ADVICE = (
    "; --remap=others=ignore leaves out all others; PNGs that number objects are for "
    "instance_folder"
)


class MaskFolder(label_maps.LabelMapBuilder):
    """Builder of a user's semantic dataset."""

    description = "A user's own photographs with masks of classes."
    # A photograph of one thing alone, or without any, is as the user wants it.
    leaves_out_uniform = False

    def __init__(
        self,
        *,
        images: str,
        masks: str,
        classes: epath.PathLike,
        mask_name: str = "",
        ignore_label: int | str = 255,
        remap: str = "",
        validation: Share = None,
        test: Share = None,
        split_seed: int = 0,
        skip_damaged: bool = False,
        **kwargs: Any,
    ):
        """Paths are PATH or train=PATH,validation=PATH,…; see data/README.md.

        Args:
          images: folder or archive of the photographs.
          masks: folder or archive of the masks: PNG with one channel, or with colours
            that the class list gives.
          classes: see class_lists.
          mask_name: how masks are called, "{}_mask.png"; by default as their
            photographs, or with something added to all names.
          ignore_label: value of pixels that belong to no class.
          remap: values or colours that mean what others do, see class_lists.read_remap.
          validation: share of the training photographs to draw for validation; by
            default a tenth where one path is for all.
          test: share of them to draw for a test split.
          split_seed: of what is drawn.
          skip_damaged: leaves out photographs that can't be decoded.
          **kwargs: see RecordBuilder.

        Raises:
          ValueError: an option that isn't as above, or classes without a list of them.
        """
        super().__init__(**kwargs)
        self._list = read_class_list(classes)
        # Semantic segmentation tells no objects apart.
        self.classes = tuple(
            dataclasses.replace(c, is_thing=False) for c in self._list.classes
        )
        self._ignore_label = number("ignore_label", ignore_label)
        self._remap = read_remap(remap, self.classes)
        self.codes = _read_codes(self.classes, self._ignore_label, self._remap)
        self._with_ignored: list[str] = []  # masks that have the ignore label
        # The number of masks by the value or colour that --remap=others stands for.
        self._others: collections.Counter[str] = collections.Counter()
        self._is_other_value = _all_but(
            [*(c.id for c in self.classes), self._ignore_label, *self._remap.values],
            count=len(self.codes),
        )
        self._paths = {"images": images, "masks": masks, "mask_name": mask_name}
        self._shares: dict[str, Any] = {"validation": validation, "test": test}
        self._split_seed = int(split_seed)
        self.skips_damaged = skip_damaged

    def plan(self) -> Mapping[str, Sequence[Item]]:
        if len(self.classes) == 1:
            self.note(
                "class alone in --classes, so that every pixel is taken for it and every "
                "score is 100; name the background too",
                self.classes[0].name,
            )
        images, masks = paired_files.list_files(
            **self._paths, stack=self.open_files, note=self.note
        )
        masks = paired_files.match_masks(images, masks, self.note)
        named = paired_files.keys_by_split(images, masks)
        drawn = draw_splits(named, **self._shares, seed=self._split_seed)
        return {
            split: _make_items(
                paired_files.files_of(split, images),
                paired_files.files_of(split, masks),
                keys,
            )
            for split, keys in drawn.items()
        }

    def read_values(self, item: Item) -> np.ndarray:
        """Returns codes of the classes, see label_maps.class_codes, uint16 [H, W]."""
        file = item.label_map
        pixels = mask_pngs.read_pixels(item.label_maps.read(file), file=file)
        if self._list.colors:
            colors = pixels.shown_colors()
            codes = self._codes_by_color(colors)
            if codes is not None and self._colors_decide(pixels, codes):
                self._count_others(colors, self._is_other_color, "#{:06x}")
                if pixels.indices is not None:
                    self.note(
                        "masks read by the class list's colours, not numbers", file
                    )
                return codes
            if pixels.indices is None and not pixels.is_grey_in_colors:
                colors = pixels.colors()
                unknown = self._color_codes[colors] == label_maps.UNKNOWN
                raise ValueError(
                    f"{file} has colours that stand for no class: "
                    f"{mask_pngs.spell_colors(colors[unknown])}; add them to the class "
                    "list, or say --remap=#rrggbb=ignore or --remap=others=ignore"
                )
        values = pixels.values(file=file)
        if pixels.is_grey_in_colors:
            self.note("masks of grey that was saved as RGB", file)
        ignored = self._ignore_label
        if not self.codes[ignored] and np.any(values == ignored):
            self._with_ignored.append(file)
        self._count_others(values, self._is_other_value, "{}")
        return label_maps.encode_classes(
            values, self.codes, file=file, advice=_UNKNOWN_ADVICE
        )

    def find_segments(
        self, item: Item, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        del item
        segment_map, present = label_maps.number_segments(values)
        return segment_map, present.astype(np.int32) - 1

    def note_at_end(self, unseen: Sequence[ClassInfo]) -> None:
        super().note_at_end(unseen)
        if self._with_ignored and unseen:
            value, first = self._ignore_label, unseen[0]
            self.note(
                f"masks with the value {value} (--ignore_label), taken for no class; if "
                f"it stands for {first.name}, add --remap={value}={first.id} and prepare "
                "again with --overwrite",
                *self._with_ignored,
            )
        if self._others:
            names = {c.id: c.name for c in self.classes}
            others = self._remap.others
            self.note(
                "values or colours that --remap=others took for "
                + ("no class" if others is None else names[others]),
                *(f"{name} in {count:,} masks" for name, count in self._others.items()),
            )

    def read_photograph(
        self, item: Item, size: tuple[int, int]
    ) -> tuple[bytes, tuple[int, int]]:
        def note(what: str) -> None:
            self.note(what, item.image_id)

        encoded = read_file(lambda: item.photographs.read(item.photograph))
        upright = turn_upright(encoded, size=size, note=note)
        return upright, check_photograph(upright, file=item.photograph)

    def _codes_by_color(self, colors: np.ndarray | None) -> np.ndarray | None:
        """Returns a mask's codes by its colours; None where the list lacks some."""
        if colors is None:
            return None
        codes = self._color_codes[colors]
        return None if codes.max() == label_maps.UNKNOWN else codes

    def _colors_decide(self, pixels: mask_pngs.Pixels, codes: np.ndarray) -> bool:
        """Returns whether a mask means the colours of the class list.

        They are in RGB. A palette's numbers are, unless tools that number colours as
        they come have made it: then two classes or more are at its colours.
        """
        if pixels.indices is None:
            return True
        by_value = self.codes[pixels.indices]
        return len(np.unique(codes)) > 1 and not np.array_equal(by_value, codes)

    def _count_others(self, found: Any, is_other: np.ndarray, spelling: str) -> None:
        """Counts a mask for each of its values, or colours, that no list has."""
        if self._remap.has_others:
            others = np.unique(found[is_other[found]])
            self._others.update(map(spelling.format, others.tolist()))

    @functools.cached_property
    def _is_other_color(self) -> np.ndarray:
        return _all_but([*self._list.colors, *self._remap.colors], count=1 << 24)

    @functools.cached_property
    def _color_codes(self) -> np.ndarray:
        """uint16 [2^24]: codes by colour 0xRRGGBB."""
        by_id = {c.id: label + 1 for label, c in enumerate(self.classes)}
        codes = np.full(1 << 24, label_maps.UNKNOWN, np.uint16)
        if self._remap.has_others:
            others = self._remap.others
            codes[:] = 0 if others is None else by_id[others]
        for table in (self._list.colors, self._remap.colors):
            for color, class_id in table.items():
                codes[color] = 0 if class_id is None else by_id[class_id]
        return codes


def _all_but(numbers: Iterable[int], *, count: int) -> np.ndarray:
    """Returns bool [count], which is False at `numbers`."""
    found = np.ones(count, np.bool_)
    found[list(numbers)] = False
    return found


def _read_codes(
    classes: Sequence[ClassInfo], ignore_label: int, remap: Remap
) -> np.ndarray:
    """Returns `label_maps.class_codes`; ValueError where the options contradict."""
    names = {c.id: c.name for c in classes}
    if ignore_label in names:
        raise ValueError(
            f"--ignore_label={ignore_label} is the class {names[ignore_label]!r}; give "
            "the value of pixels that belong to no class"
        )
    codes = label_maps.class_codes(classes, void=[ignore_label], remap=remap.values)
    if remap.has_others:
        others = None if remap.others is None else list(names).index(remap.others)
        codes[codes == label_maps.UNKNOWN] = 0 if others is None else others + 1
    return codes


def _make_items(
    images: paired_files.Files, masks: paired_files.Files, keys: Sequence[str]
) -> list[Item]:
    items = [
        Item(
            image_id=key.replace("/", "_"),
            photographs=images.source,
            photograph=images.names[key],
            label_maps=masks.source,
            label_map=masks.names[key],
        )
        for key in keys
    ]
    return sorted(items, key=lambda item: item.photographs.order(item.photograph))

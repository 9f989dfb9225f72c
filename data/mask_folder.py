"""A user's own photographs with a PNG each whose pixels are numbers of classes.

A photograph and its mask have the same path below their folders, but for the ending and
for folders that all files of one side are in. A mask is as large as its photograph,
which is turned as its EXIF says where the mask was drawn on it that way; see
`photographs.turn_upright`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data import label_maps
from data.label_maps import Item
from data.photographs import PICTURE_ENDINGS, check_photograph, turn_upright
from data.sources import Source, open_source, some
from data.splits import TRAIN, check_disjoint, draw_splits, parse_split_paths
from eomt_jax.dataset_info.class_tables import make_class_table
from eomt_jax.regular_files import MAX_JSON, check_regular
from eomt_jax.types import ClassInfo

_MASKS = (".png",)
_IGNORE = "ignore"
_MAX_VALUE = (1 << 16) - 1  # that a PNG can have in one channel


@dataclasses.dataclass(frozen=True)
class _Files:
    """Files of a source.

    Attributes:
      names: by what a photograph and its mask have in common.
    """

    source: Source
    names: Mapping[str, str]


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
        ignore_label: int | str = 255,
        remap: str = "",
        validation: float | None = None,
        test: float | None = None,
        split_seed: int = 0,
        **kwargs: Any,
    ):
        """Paths are PATH or train=PATH,validation=PATH,…; see data/README.md.

        Args:
          images: folder or archive of the photographs, JPEG or PNG.
          masks: folder or archive of the masks, PNG with one channel.
          classes: text with one name a line, for the values 0, 1, 2 …; or a JSON list
            of rows with "id" (the value), "name" and, where wanted, "color".
          ignore_label: value of pixels that belong to no class.
          remap: values that mean what others do: "3=1,4=1,7=ignore".
          validation: share of the training photographs to draw for validation; by
            default a tenth where one path is for all.
          test: share of them to draw for a test split.
          split_seed: of what is drawn.
          **kwargs: see RecordBuilder.

        Raises:
          ValueError: an option that isn't as above, or classes without a list of them.
        """
        super().__init__(**kwargs)
        self.classes = read_class_list(classes)
        self._ignore_label = _number("ignore_label", ignore_label)
        self.codes = _read_codes(self.classes, self._ignore_label, remap)
        self._with_ignored: list[str] = []  # masks that have the ignore label
        self._images = parse_split_paths(images)
        self._masks = parse_split_paths(masks)
        self._shares: dict[str, Any] = {"validation": validation, "test": test}
        self._split_seed = int(split_seed)

    def plan(self) -> Mapping[str, Sequence[Item]]:
        images = self._list_files(self._images, PICTURE_ENDINGS)
        masks = self._list_files(self._masks, _MASKS)
        if set(images) == set(masks) == {""}:
            named = {"": _check_paired(images[""], [masks[""]])}
        else:
            named = _named_splits(images, masks)
        drawn = draw_splits(named, **self._shares, seed=self._split_seed)
        return {
            split: _make_items(_files_of(split, images), _files_of(split, masks), keys)
            for split, keys in drawn.items()
        }

    def find_segments(
        self, item: Item, values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if not self.codes[self._ignore_label] and np.any(values == self._ignore_label):
            self._with_ignored.append(item.label_map)
        return super().find_segments(item, values)

    def note_unseen(self, classes: Sequence[ClassInfo]) -> None:
        super().note_unseen(classes)
        if self._with_ignored:
            value, first = self._ignore_label, classes[0]
            self.note(
                f"masks with the value {value} (--ignore_label), taken for no class; if "
                f"it stands for {first.name}, add --remap={value}={first.id} and prepare "
                "again with --overwrite",
                *self._with_ignored,
            )

    def read_photograph(
        self, item: Item, size: tuple[int, int]
    ) -> tuple[bytes, tuple[int, int]]:
        encoded = item.photographs.read(item.photograph)
        upright = turn_upright(
            encoded, size=size, note=lambda what: self.note(what, item.image_id)
        )
        return upright, check_photograph(upright, file=item.photograph)

    def _list_files(
        self, paths: Mapping[str, str], endings: Sequence[str]
    ) -> dict[str, _Files]:
        """Files of each path that have one of the endings, by split."""
        listed = {}
        for split, path in paths.items():
            source = self.open_files.enter_context(open_source(path))
            names = [n for n in source.names() if n.lower().endswith(tuple(endings))]
            if not names:
                raise ValueError(
                    f"{path} holds no {' or '.join(endings)} file, but "
                    f"{some(source.names())}"
                )
            others = set(source.names()) - set(names)
            if others:
                what = f"files of {path} that are not {' or '.join(endings)}, left out"
                self.note(what, *others)
            listed[split] = _Files(source, _by_key(names, path))
        return listed


def read_class_list(path: epath.PathLike) -> tuple[ClassInfo, ...]:
    """Classes from a text with one name a line, or a JSON list of rows.

    Raises:
      ValueError: no such file, or one that isn't as it should be.
    """
    path = epath.Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"--classes={path} is no file")
    check_regular(path, max_bytes=MAX_JSON)
    try:
        text = path.read_bytes().decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error})") from error
    if text.startswith(("[", "{")):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON ({error})") from error
        if not isinstance(rows, list):
            raise ValueError(
                f'{path} is no list: write [{{"id": 0, "name": "road"}}, …]'
            )
    else:
        rows = [{"id": i, "name": name} for i, name in enumerate(text.splitlines())]
    classes = make_class_table(rows, file=os.fspath(path))
    wrong = [c.id for c in classes if not 0 <= c.id <= _MAX_VALUE]
    if wrong:
        raise ValueError(
            f"{path} has the id {wrong[0]}; a PNG has values of 0 to {_MAX_VALUE}"
        )
    # Semantic segmentation tells no objects apart.
    return tuple(dataclasses.replace(c, is_thing=False) for c in classes)


def _read_codes(
    classes: Sequence[ClassInfo], ignore_label: int, remap: str
) -> np.ndarray:
    """See `label_maps.class_codes`; ValueError where the options contradict."""
    names = {c.id: c.name for c in classes}
    if ignore_label in names:
        raise ValueError(
            f"--ignore_label={ignore_label} is the class {names[ignore_label]!r}; give "
            "the value of pixels that belong to no class"
        )
    mapping: dict[int, int | None] = {}
    for part in filter(None, remap.split(",")):
        value, equals, target = (text.strip() for text in part.partition("="))
        number = _number("remap", value)
        if not equals or number in mapping:
            raise ValueError(
                f"--remap={remap}: {part!r} is no VALUE=CLASS, or VALUE comes twice; "
                "write it as in 3=1,4=1,7=ignore"
            )
        mapping[number] = None if target == _IGNORE else _number("remap", target)
        if target != _IGNORE and mapping[number] not in names:
            raise ValueError(
                f"--remap={remap}: there is no class {target}; the class list has "
                + some(f"{key} ({name})" for key, name in names.items())
            )
    return label_maps.class_codes(classes, void=[ignore_label], remap=mapping)


def _number(option: str, text: int | str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= _MAX_VALUE:
        raise ValueError(
            f"--{option} has {text!r} where a value of 0 to {_MAX_VALUE} is wanted"
        )
    return number


def _by_key(names: Sequence[str], path: str) -> dict[str, str]:
    """Files by their path without the ending and without folders that all are in."""
    folders = [name.split("/")[:-1] for name in names]
    shared = len(os.path.commonprefix(folders))
    keyed: dict[str, str] = {}
    for name in names:
        key = "/".join(name.split("/")[shared:]).rpartition(".")[0]
        if key in keyed:
            raise ValueError(
                f"{path} has {keyed[key]} and {name}, which differ in the ending alone"
            )
        keyed[key] = name
    return keyed


def _named_splits(
    images: Mapping[str, _Files], masks: Mapping[str, _Files]
) -> dict[str, list[str]]:
    """Keys by split, where photographs, masks or both lie in a place for each."""
    splits = [split for split in {**images, **masks} if split]
    if set(images) == set(masks):
        shared = {files.source.name for files in images.values()}
        if len(shared) < len(images):
            raise ValueError(
                f"--images gives {' and '.join(images)} the same {shared.pop()}: give "
                "each its own, or one PATH for --images and --masks, split at random"
            )
        return {split: _check_paired(images[split], [masks[split]]) for split in splits}
    if {""} not in (set(images), set(masks)):
        raise ValueError(
            f"--images has the splits {', '.join(images)}, --masks {', '.join(masks)}; "
            "give both the same, or one of them a single PATH"
        )
    one, divided = (images[""], masks) if "" in images else (masks[""], images)
    _check_paired(one, list(divided.values()))
    keys = {split: sorted(files.names) for split, files in divided.items()}
    check_disjoint(keys)
    return keys


def _files_of(split: str, files: Mapping[str, _Files]) -> _Files:
    """Files that a split is in; one that was drawn is in those of training."""
    return next(files[name] for name in (split, "", TRAIN) if name in files)


def _check_paired(one: _Files, others: Sequence[_Files]) -> list[str]:
    """Sorted keys; ValueError listing the files without a partner."""
    names = {key: name for files in others for key, name in files.names.items()}
    there = " and ".join(files.source.name for files in others)
    label_maps.check_paired(one.names, names, where=(one.source.name, there))
    return sorted(names)


def _make_items(images: _Files, masks: _Files, keys: Sequence[str]) -> list[Item]:
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

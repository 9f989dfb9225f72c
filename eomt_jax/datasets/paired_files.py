"""A user's photographs and their masks: listed, and paired by their names.

A photograph and its mask have the same path below their folders, but for the ending, for
folders that all files of one side are in, for spelling, and for what the masks' names
add to the photographs'; see `spellings.match_names`.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

from eomt_jax.datasets import label_maps
from eomt_jax.datasets.photographs import PICTURE_ENDINGS
from eomt_jax.datasets.sources import Source, open_source, some
from eomt_jax.datasets.spellings import match_names
from eomt_jax.datasets.splits import TRAIN, check_disjoint, parse_split_paths

MASK_ENDINGS = (".png",)
_NAME = "{}"  # in --mask_name, the photograph's


@dataclasses.dataclass(frozen=True)
class Files:
    """Files of a source.

    Attributes:
      names: by what a photograph and its mask have in common.
    """

    source: Source
    names: Mapping[str, str]


class MaskName:
    """A pattern of masks' names in which {} is the name of their photograph."""

    def __init__(self, pattern: str):
        """Raises ValueError where the pattern has no {}; an empty one takes every name."""
        self.before, found, self.after = (pattern or _NAME).partition(_NAME)
        if not found or _NAME in self.after or "/" in pattern:
            raise ValueError(
                f"--mask_name={pattern} is no file name with one {_NAME} for the "
                f"photograph's, such as {_NAME}_mask.png"
            )
        self.is_given = bool(pattern)
        stem, dot, ending = self.after.rpartition(".")
        if dot and f".{ending.lower()}" in MASK_ENDINGS:
            self.after = stem

    def strip(self, key: str) -> str | None:
        """Returns the photograph's key; None where a mask isn't called so."""
        folder, slash, stem = key.rpartition("/")
        is_one = stem.startswith(self.before) and stem.endswith(self.after)
        if not is_one or len(stem) <= len(self.before) + len(self.after):
            return None
        return folder + slash + stem[len(self.before) : len(stem) - len(self.after)]


def list_files(
    images: str,
    masks: str,
    *,
    mask_name: str,
    stack: contextlib.ExitStack,
    note: Callable[..., None],
) -> tuple[dict[str, Files], dict[str, Files]]:
    """Returns (photographs, masks) by split, "" where one path is for all.

    Args:
      images: PATH or train=PATH,…
      masks: likewise; may be the same as `images`.
      mask_name: see MaskName.
      stack: closes what is opened.
      note: see RecordBuilder.note.

    Raises:
      ValueError: a path that holds nothing of use, or two files of one name.
    """
    pattern = MaskName(mask_name)
    are_together = images.strip() == masks.strip()

    def is_mask(name: str) -> bool:
        key, _, ending = name.rpartition(".")
        return f".{ending.lower()}" in MASK_ENDINGS and pattern.strip(key) is not None

    def is_photograph(name: str) -> bool:
        is_picture = name.lower().endswith(PICTURE_ENDINGS)
        return is_picture and not (are_together and is_mask(name))

    def list_one(
        text: str, takes: Callable[[str], bool], what: str, endings: Sequence[str]
    ) -> dict[str, Files]:
        found: dict[str, Files] = {}
        for split, path in parse_split_paths(text).items():
            source = stack.enter_context(open_source(path))
            names = [name for name in source.names() if takes(name)]
            if not names:
                raise ValueError(
                    f"{path} holds no {what} ({' '.join(endings)}), but "
                    f"{some(source.names())}"
                )
            left = set(source.names()) - set(names)
            if left and not are_together:
                note(f"files of {path} that are no {what}, left out", *left)
            found[split] = Files(source, _by_key(names, path))
        return found

    photographs = list_one(images, is_photograph, "photograph", PICTURE_ENDINGS)
    what = f"mask called {mask_name}" if pattern.is_given else "mask"
    mask_files = list_one(masks, is_mask, what, MASK_ENDINGS)
    stripped = {
        split: Files(
            files.source,
            {pattern.strip(key) or key: name for key, name in files.names.items()},
        )
        for split, files in mask_files.items()
    }
    return photographs, stripped


def match_masks(
    images: Mapping[str, Files],
    masks: Mapping[str, Files],
    note: Callable[..., None],
) -> dict[str, Files]:
    """Returns the masks by the keys of photographs whose names differ a little."""
    wanted = {key for files in images.values() for key in files.names}
    keys = {key for files in masks.values() for key in files.names}
    if keys <= wanted:
        return dict(masks)
    matched = match_names(wanted, keys)
    if not matched:  # or the photographs' names add something to the masks'
        matched = {mask: key for key, mask in match_names(keys, wanted).items()}
    renamed = {key: new for key, new in matched.items() if key != new}
    if renamed:
        examples = [f"{old} for {new}" for old, new in renamed.items()]
        note("masks found under other names than their photographs'", *examples)
    return {
        split: Files(
            files.source,
            {matched.get(key, key): name for key, name in files.names.items()},
        )
        for split, files in masks.items()
    }


def keys_by_split(
    images: Mapping[str, Files], masks: Mapping[str, Files]
) -> dict[str, list[str]]:
    """Returns keys of the pairs by split, "" where one path is for all.

    Raises:
      ValueError: files without a partner, or splits that contradict.
    """
    if set(images) == set(masks) == {""}:
        return {"": _check_paired(images[""], [masks[""]])}
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


def files_of(split: str, files: Mapping[str, Files]) -> Files:
    """Returns the files that a split is in; a drawn one is in those of training."""
    return next(files[name] for name in (split, "", TRAIN) if name in files)


def _by_key(names: Sequence[str], path: str) -> dict[str, str]:
    """Returns files by their path without the ending and folders that all are in."""
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


def _check_paired(one: Files, others: Sequence[Files]) -> list[str]:
    """Returns sorted keys; ValueError listing the files without a partner."""
    names = {key: name for files in others for key, name in files.names.items()}
    there = " and ".join(files.source.name for files in others)
    label_maps.check_paired(one.names, names, where=(one.source.name, there))
    return sorted(names)

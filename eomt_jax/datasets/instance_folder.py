"""A user's own photographs with PNGs whose pixels are numbers of objects.

Each number, or colour, is an object; 0, or black, is none. An object's class is the only
one there is, or the name of the folder that its PNG is in, or what a table says.

Legend: H W pixels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from pycocotools import mask as mask_codec

from eomt_jax.datasets import mask_pngs, paired_files
from eomt_jax.datasets.builder import RecordBuilder
from eomt_jax.datasets.class_lists import number, read_class_list, read_csv
from eomt_jax.datasets.paired_files import Files
from eomt_jax.datasets.photographs import check_photograph, read_file, turn_upright
from eomt_jax.datasets.sources import Source, some
from eomt_jax.datasets.spellings import last_part, plain
from eomt_jax.datasets.splits import TRAIN, Share, draw_splits
from eomt_jax.pipeline.records import Record
from eomt_jax.regular_files import MAX_JSON, check_regular
from eomt_jax.types import ClassInfo


@dataclasses.dataclass(frozen=True)
class Item:
    """One photograph and its PNGs of objects.

    Attributes:
      image_id: the dataset's name of it.
      photographs: where the photograph is.
      photograph: its file's name there.
      masks: where the PNGs are.
      files: (label of all objects in it, or None; file's name) of each PNG.
      split: that it is in.
    """

    image_id: str
    photographs: Source
    photograph: str
    masks: Source
    files: Sequence[tuple[int | None, str]]
    split: str


class InstanceFolder(RecordBuilder):
    """Builder of a user's dataset of instances."""

    description = "A user's own photographs with masks of numbered objects."
    task = "instance"

    def __init__(
        self,
        *,
        images: str,
        masks: str,
        classes: epath.PathLike,
        object_classes: str = "",
        mask_name: str = "",
        ignore_label: int | str = "",
        validation: Share = None,
        test: Share = None,
        split_seed: int = 0,
        skip_damaged: bool = False,
        negatives: bool = False,
        **kwargs: Any,
    ):
        """Paths are PATH or train=PATH,validation=PATH,…; see data/README.md.

        Args:
          images: folder or archive of the photographs.
          masks: folder or archive of the PNGs; with a folder for each class, or not.
          classes: see class_lists; ids count in `object_classes` alone.
          object_classes: CSV with the columns file, id, class: the class (name or id) of
            an object in a PNG; without the column file, of that number in all PNGs.
          mask_name: see MaskFolder.
          ignore_label: number that is no object either, such as 255 of borders.
          validation: see MaskFolder.
          test: see MaskFolder.
          split_seed: of what is drawn.
          skip_damaged: leaves out photographs that can't be decoded.
          negatives: keeps photographs without an object in training too.
          **kwargs: see RecordBuilder.

        Raises:
          ValueError: an option that isn't as above.
        """
        super().__init__(**kwargs)
        self.classes = tuple(
            dataclasses.replace(c, is_thing=True)
            for c in read_class_list(classes).classes
        )
        self._ignored = (
            number("ignore_label", ignore_label) if str(ignore_label) else None
        )
        self._table = _read_table(object_classes, self.classes)
        self._paths = {"images": images, "masks": masks, "mask_name": mask_name}
        self._shares: dict[str, Any] = {"validation": validation, "test": test}
        self._split_seed = int(split_seed)
        self.skips_damaged = skip_damaged
        self._negatives = negatives

    def plan(self) -> Mapping[str, Sequence[Item]]:
        images, masks = paired_files.list_files(
            **self._paths, stack=self.open_files, note=self.note
        )
        labelled = {split: self._by_class(files) for split, files in masks.items()}
        masks = {
            split: Files(files.source, {key: key for key in labelled[split]})
            for split, files in masks.items()
        }
        matched = paired_files.match_masks(images, masks, self.note)
        if self._negatives:
            matched = _without_gaps(images, matched)
        named = paired_files.keys_by_split(images, matched)
        drawn = draw_splits(named, **self._shares, seed=self._split_seed)
        planned = {}
        for split, keys in drawn.items():
            origin = next(name for name in (split, "", TRAIN) if name in matched)
            photographs = paired_files.files_of(split, images)
            items = [
                Item(
                    image_id=key.replace("/", "_"),
                    photographs=photographs.source,
                    photograph=photographs.names[key],
                    masks=masks[origin].source,
                    files=labelled[origin].get(matched[origin].names.get(key, ""), ()),
                    split=split,
                )
                for key in keys
            ]
            source = photographs.source
            planned[split] = sorted(items, key=lambda i: source.order(i.photograph))
        return planned

    def num_bytes(self, item: Item) -> int:
        return item.photographs.size(item.photograph)

    def make_record(self, item: Item) -> Record | None:
        def note(what: str) -> None:
            self.note(what, item.image_id)

        maps = [
            (label, file, self._read_objects(item, file)) for label, file in item.files
        ]
        encoded = read_file(lambda: item.photographs.read(item.photograph))
        if maps:
            encoded = turn_upright(encoded, size=maps[0][2].shape, note=note)
        size = check_photograph(encoded, file=item.photograph)
        labels: list[int] = []
        rles: list[Any] = []
        for label, file, objects in maps:
            if objects.shape != size:
                raise ValueError(
                    f"{file} has {objects.shape[0]} x {objects.shape[1]} pixels, but its "
                    f"photograph has {size[0]} x {size[1]}"
                )
            for object_id in np.unique(objects).tolist():
                if object_id and object_id == self._ignored:
                    self.note(
                        f"masks with {object_id} (--ignore_label), no object", file
                    )
                elif object_id:
                    labels.append(self._label(label, item, file, object_id))
                    mask = np.asfortranarray(objects == object_id).astype(np.uint8)
                    rles.append(mask_codec.encode(mask)["counts"])
        if not labels and item.split == TRAIN:
            if not self._negatives:
                note(
                    "train photographs without an object, left out; --negatives keeps them"
                )
                return None
            note("train photographs without an object, kept as negatives")
        areas = [mask_codec.area({"size": list(size), "counts": r}) for r in rles]
        return Record(
            image_bytes=encoded,
            rles=tuple(rles),
            areas=np.array(areas, np.float64),
            labels=np.array(labels, np.int32),
            is_crowd=np.zeros(len(labels), bool),
            image_id=item.image_id,
            file_name=item.photograph,
            height=size[0],
            width=size[1],
        )

    def _read_objects(self, item: Item, file: str) -> np.ndarray:
        """Returns int [H, W]: a number for each object, 0 where there is none."""
        pixels = mask_pngs.read_pixels(item.masks.read(file), file=file)
        if pixels.indices is None and not pixels.is_grey_in_colors:
            return pixels.colors()
        return pixels.values(file=file).astype(np.int32)

    def _label(self, label: int | None, item: Item, file: str, object_id: int) -> int:
        if label is not None:
            return label
        for name in (_stem(file), last_part(_stem(file)), _stem(item.photograph), ""):
            if (name, object_id) in self._table:
                return self._table[name, object_id]
        raise ValueError(
            f"{file} has the object {object_id}, whose class --object_classes doesn't "
            "say: add a row to the table"
        )

    def _by_class(self, files: Files) -> dict[str, list[tuple[int | None, str]]]:
        """Returns the PNGs with their label, by the key of their photograph.

        Raises:
          ValueError: nothing says the objects' class.
        """
        if self._table or len(self.classes) == 1:
            label = None if self._table else 0
            return {key: [(label, name)] for key, name in files.names.items()}
        labels = {plain(c.name): label for label, c in enumerate(self.classes)}
        found: dict[str, list[tuple[int | None, str]]] = {}
        for key, name in files.names.items():
            folders = name.split("/")[:-1]
            named = [i for i, f in enumerate(folders) if plain(f) in labels]
            if not named:
                raise ValueError(
                    f"nothing says the class of the objects in {name}: put the PNGs of "
                    "each class into a folder of its name "
                    f"({some(c.name for c in self.classes)}), or give "
                    "--object_classes=TABLE.csv with the columns file, id, class"
                )
            rest = "/".join([*folders[named[-1] + 1 :], last_part(key)])
            label = labels[plain(folders[named[-1]])]
            found.setdefault(rest, []).append((label, name))
        return found


def _without_gaps(
    images: Mapping[str, Files], masks: Mapping[str, Files]
) -> dict[str, Files]:
    """Returns the masks, and an empty name for each photograph without one."""
    filled = {}
    for split, files in masks.items():
        mine = [images[split]] if split in images else list(images.values())
        if split and "" in images:
            mine = []
        keys = [key for photographs in mine for key in photographs.names]
        filled[split] = Files(files.source, {**dict.fromkeys(keys, ""), **files.names})
    return filled


def _read_table(path: str, classes: Sequence[ClassInfo]) -> dict[tuple[str, int], int]:
    """Returns labels by (file without its ending, or "" for all; object's number)."""
    if not path:
        return {}
    file = epath.Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"--object_classes={path} is no file")
    check_regular(file, max_bytes=MAX_JSON)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error})") from error
    rows = read_csv(text.splitlines(), {})
    ids_and_names = {str(c.id): label for label, c in enumerate(classes)}
    ids_and_names |= {plain(c.name): label for label, c in enumerate(classes)}
    table: dict[tuple[str, int], int] = {}
    for line, row in enumerate(rows, 2):
        try:
            object_id = int(row["id"])
            label = ids_and_names[plain(row["class"])]
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{path}, line {line}: {row} has no whole number as id and none of "
                f"{some(c.name for c in classes)} as class; the first line names the "
                "columns: file,id,class"
            ) from error
        name = _stem(row.get("file", ""))
        if table.setdefault((name, object_id), label) != label:
            raise ValueError(
                f"{path}, line {line}: the object {object_id} of "
                f"{row.get('file') or 'all files'} has two classes"
            )
    if not table:
        raise ValueError(f"{path} has no rows below its columns: file,id,class")
    # A table may have other folders than the PNGs; then the last part of a name counts.
    by_last_part: dict[tuple[str, int], set[int]] = {}
    for (name, object_id), label in table.items():
        by_last_part.setdefault((last_part(name), object_id), set()).add(label)
    single = {
        key: labels.pop() for key, labels in by_last_part.items() if len(labels) == 1
    }
    return {**single, **table}


def _stem(file: str) -> str:
    """Returns a file's path in plain spelling, without its ending."""
    folder, slash, name = plain(file).rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)

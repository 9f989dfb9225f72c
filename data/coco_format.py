"""A user's own photographs with annotations in one of COCO's formats.

Panoptic where PNGs of segments are given, else instances. One JSON is split at random;
of two, one is for training and one for validation. Classes are the JSON's categories,
in the order of their ids.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data import coco_instance, coco_panoptic
from data.coco_builder import CocoBuilder, PlanItem
from data.coco_json import CocoReader, CocoTable, FileFinder
from data.sources import open_source, some
from data.splits import TRAIN, VALIDATION, parse_split_paths, random_split
from eomt_jax.dataset_info.class_tables import make_class_table
from eomt_jax.types import ClassInfo


class CocoFormat(CocoBuilder):
    """Builder of a user's dataset."""

    description = "A user's own photographs, annotated in COCO's format."

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        segments: str = "",
        validation: float = 0.1,
        split_seed: int = 0,
        **kwargs: Any,
    ):
        """Paths are PATH or train=PATH,validation=PATH; see data/README.md.

        Args:
          images: folder or archive of the photographs.
          annotations: a JSON.
          segments: folder or archive of the PNGs of a panoptic JSON.
          validation: share of the photographs, where one JSON is split at random.
          split_seed: of the random split.
          **kwargs: see RecordBuilder.

        Raises:
          ValueError: a path that isn't as above.
        """
        self.task = "panoptic" if segments else "instance"
        super().__init__(**kwargs)
        self._annotations = parse_split_paths(annotations)
        self._images = _paths_by_json("images", images, self._annotations)
        self._segments = (
            _paths_by_json("segments", segments, self._annotations) if segments else {}
        )
        self._validation, self._split_seed = float(validation), int(split_seed)

    def plan(self) -> Mapping[str, Sequence[PlanItem]]:
        tables = {
            split: self._read_table(epath.Path(path).expanduser())
            for split, path in self._annotations.items()
        }
        self.classes = _common_classes(list(tables.values()))
        if self.task == "instance":  # whatever else may be said there
            self.classes = tuple(
                dataclasses.replace(c, is_thing=True) for c in self.classes
            )
        images, segments = self._open(self._images), self._open(self._segments)
        readers: dict[str, CocoReader] = {}
        for split, table in tables.items():
            options: dict[str, Any] = {
                "classes": self.classes,
                "note": self.note,
                "turns_upright": True,
            }
            if self.task == "panoptic":
                readers[split] = coco_panoptic.PanopticReader(
                    table, images[split], segments[split], **options
                )
            else:
                readers[split] = coco_instance.InstanceReader(
                    table, images[split], **options
                )
        self.note_unnamed(list(readers.values()))
        if "" in readers:
            return self._split_at_random(readers[""])
        return {
            split: self.plan_split(split, reader, reader.images)
            for split, reader in readers.items()
        }

    def _read_table(self, path: epath.Path) -> CocoTable:
        if not path.is_file():
            raise ValueError(f"--annotations={path} is no file")
        source = "--segments=PATH says that it is panoptic, without it instances"
        read = coco_panoptic if self.task == "panoptic" else coco_instance
        return read.read_table(path.read_bytes(), name=path.name, source=source)

    def _open(self, paths: Mapping[str, str]) -> dict[str, FileFinder]:
        """Opens each path once, for all splits that share it."""
        finders = {
            path: FileFinder(self.open_files.enter_context(open_source(path)))
            for path in sorted(set(paths.values()))
        }
        return {split: finders[path] for split, path in paths.items()}

    def _split_at_random(self, reader: CocoReader) -> dict[str, list[PlanItem]]:
        images = {
            image.file_name: image for image in reader.images if len(image.labels)
        }
        # Crowds alone can't be measured on, so such photographs aren't drawn from.
        drawn = [name for name, i in images.items() if not i.is_crowd.all()]
        if len(drawn) < 2:
            raise ValueError(
                f"{reader.name} gives {len(drawn)} of its {len(reader.images):,} "
                "photographs an object that is no crowd (iscrowd = 0); a random split "
                "needs two or more: annotate them, or give a JSON for each split"
            )
        empty = [i.image_id for i in reader.images if i.file_name not in images]
        if empty:
            self.note("photographs without a segment, left out", *empty)
        names = random_split(drawn, validation=self._validation, seed=self._split_seed)
        names[TRAIN] += images.keys() - set(drawn)
        return {
            split: self.plan_split(split, reader, [images[n] for n in names[split]])
            for split in (TRAIN, VALIDATION)
        }


def _paths_by_json(
    what: str, text: str, annotations: Mapping[str, str]
) -> Mapping[str, str]:
    """A path for each JSON; one path is for all of them."""
    paths = parse_split_paths(text)
    if set(paths) == {""}:
        return dict.fromkeys(annotations, paths[""])
    if set(paths) != set(annotations):
        raise ValueError(
            f"--{what}={text} is not for the splits of --annotations: give one PATH, or "
            + ",".join(f"{split or TRAIN}=PATH" for split in annotations)
        )
    return paths


def _common_classes(tables: Sequence[CocoTable]) -> tuple[ClassInfo, ...]:
    """The classes that all tables have, by id; ValueError where they differ."""
    found = []
    for table in tables:
        rows = make_class_table(table.categories, file=table.name)
        found.append({c.id: c for c in rows})
    first = found[0]
    for table, classes in zip(tables, found, strict=True):
        differing = {
            f"{key} ({(first.get(key) or classes[key]).name})"
            for key in first.keys() | classes.keys()
            if key not in first
            or key not in classes
            or (first[key].name, first[key].is_thing)
            != (classes[key].name, classes[key].is_thing)
        }
        if differing:
            raise ValueError(
                f"{tables[0].name} and {table.name} differ in the categories "
                f"{some(differing)}: give both the same list"
            )
    return tuple(first[key] for key in sorted(first))

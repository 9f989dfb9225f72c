"""A user's own photographs with annotations in one of COCO's formats.

Panoptic where PNGs of segments are given, else instances. One JSON is split at random;
of several, each is a split. Classes are the JSON's categories, in the order of their
ids.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from eomt_jax.dataset_info.class_tables import make_class_table
from eomt_jax.datasets import coco_instance, coco_panoptic
from eomt_jax.datasets.coco_builder import CocoBuilder, PlanItem
from eomt_jax.datasets.coco_reader import AnnotatedImage, CocoReader
from eomt_jax.datasets.coco_table import CocoTable
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.sources import open_source, some
from eomt_jax.datasets.splits import TRAIN, Share, draw_splits, parse_split_paths
from eomt_jax.regular_files import check_regular
from eomt_jax.types import ClassInfo

_MAX_TABLE = 1 << 32  # bytes; all of COCO has 0.5 GB


class CocoFormat(CocoBuilder):
    """Builder of a user's dataset."""

    description = "A user's own photographs, annotated in COCO's format."
    crowd_advice = (
        "; --crowds_as_objects counts them as objects, as is right for CVAT's JSON, "
        "where every mask drawn with the brush is one"
    )
    instance_reader: type[CocoReader] = coco_instance.InstanceReader

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        segments: str = "",
        validation: Share = None,
        test: Share = None,
        split_seed: int = 0,
        skip_damaged: bool = False,
        negatives: bool = False,
        crowds_as_objects: bool = False,
        **kwargs: Any,
    ):
        """Paths are PATH or train=PATH,validation=PATH,…; see data/README.md.

        Args:
          images: folder or archive of the photographs.
          annotations: a JSON.
          segments: folder or archive of the PNGs of a panoptic JSON.
          validation: share of the training photographs to draw for validation; by
            default a tenth where one JSON is for all.
          test: share of them to draw for a test split.
          split_seed: of what is drawn.
          negatives: keeps photographs without an object in training too.
          skip_damaged: leaves out photographs that can't be decoded.
          crowds_as_objects: takes what has iscrowd = 1 for objects like the others.
          **kwargs: see RecordBuilder.

        Raises:
          ValueError: a path that isn't as above.
        """
        self.task = "panoptic" if segments else "instance"
        self.negatives = negatives
        if negatives and segments:
            raise ValueError(
                "--negatives is for instances; what panoptic annotations leave out is "
                "void, not known to be empty"
            )
        super().__init__(**kwargs)
        self.annotations = parse_split_paths(annotations)
        self._images = _paths_by_json("images", images, self.annotations)
        self._segments = (
            _paths_by_json("segments", segments, self.annotations) if segments else {}
        )
        self._shares: dict[str, Any] = {"validation": validation, "test": test}
        self._split_seed = int(split_seed)
        self.skips_damaged = skip_damaged
        self._crowds_as_objects = crowds_as_objects

    def plan(self) -> Mapping[str, Sequence[PlanItem]]:
        tables = self._without_groups(self.read_tables())
        self.classes = _common_classes(list(tables.values()))
        if self.task == "instance":  # whatever else may be said there
            self.classes = tuple(
                dataclasses.replace(c, is_thing=True) for c in self.classes
            )
        images, segments = self.open_photographs(), self._open(self._segments)
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
                readers[split] = self.instance_reader(table, images[split], **options)
            if self._crowds_as_objects:
                readers[split].images = [
                    dataclasses.replace(i, is_crowd=np.zeros_like(i.is_crowd))
                    for i in readers[split].images
                ]
        self.note_crowds(list(readers.values()))
        self.note_unnamed(list(readers.values()))
        return self._split(readers)

    def read_tables(self) -> Mapping[str, CocoTable]:
        """Returns the table of each split; "" is one that is divided at random."""
        return {
            split: self._read_table(epath.Path(path).expanduser())
            for split, path in self.annotations.items()
        }

    def open_photographs(self) -> Mapping[str, FileFinder]:
        """Returns where the photographs of each table are."""
        return self._open(self._images)

    def _read_table(self, path: epath.Path) -> CocoTable:
        if not path.is_file():
            raise ValueError(f"--annotations={path} is no file")
        check_regular(path, max_bytes=_MAX_TABLE)
        source = "see data/README.md"
        read = coco_panoptic if self.task == "panoptic" else coco_instance
        return read.read_table(path.read_bytes(), name=path.name, source=source)

    def _without_groups(self, tables: Mapping[str, CocoTable]) -> dict[str, CocoTable]:
        """Returns the tables without categories that only group others (Roboflow's)."""
        used = {i for table in tables.values() for i in _used_categories(table)}
        rows = [row for table in tables.values() for row in table.categories]
        groups = {row.get("supercategory") for row in rows if row.get("id") in used}
        left_out = {
            str(row.get("name"))
            for row in rows
            if row.get("id") not in used
            and row.get("name") in groups
            and row.get("supercategory") in (None, "", "none")
        }
        if left_out:
            self.note("categories that only group others, left out", *left_out)
        return {
            split: dataclasses.replace(
                table,
                categories=[
                    row
                    for row in table.categories
                    if row.get("id") in used or row.get("name") not in left_out
                ],
            )
            for split, table in tables.items()
        }

    def _open(self, paths: Mapping[str, str]) -> dict[str, FileFinder]:
        """Opens each path once, for all splits that share it."""
        finders = {
            path: FileFinder(self.open_files.enter_context(open_source(path)))
            for path in sorted(set(paths.values()))
        }
        return {split: finders[path] for split, path in paths.items()}

    def _split(self, readers: Mapping[str, CocoReader]) -> dict[str, list[PlanItem]]:
        """Returns each split's images: its own JSON's, or some drawn from training's.

        Crowds alone can't be measured on, so such photographs aren't drawn from.
        """
        self._note_shared(readers)
        images = {
            split: {image.file_name: image for image in reader.images}
            for split, reader in readers.items()
        }
        only_crowds: list[str] = []
        if "" in readers:
            images[""] = self._without_empty(readers[""])
        source = readers.get("") or readers.get(TRAIN)
        if source:
            only_crowds = [
                i.file_name for i in source.images if len(i.labels) and i.is_crowd.all()
            ]
        names = draw_splits(
            images, **self._shares, seed=self._split_seed, stays_in_train=only_crowds
        )
        planned = {}
        for split, chosen in names.items():
            origin = next(o for o in (split, "", TRAIN) if o in readers)
            planned[split] = self.plan_split(
                split, readers[origin], [images[origin][name] for name in chosen]
            )
        return planned

    def _without_empty(self, reader: CocoReader) -> dict[str, AnnotatedImage]:
        """Returns the images that show something, by file name."""
        images = {
            i.file_name: i for i in reader.images if len(i.labels) or self.negatives
        }
        if not any(len(i.labels) for i in images.values()):
            raise ValueError(
                f"{reader.name} gives none of its {len(reader.images):,} photographs a "
                f"segment with a mask; {reader.lack or 'it has no annotations'}"
            )
        if all(i.is_crowd.all() for i in images.values()):
            raise ValueError(
                f"{reader.name} gives its {len(reader.images):,} photographs crowds "
                f"alone (iscrowd = 1){self.crowd_advice}"
            )
        empty = [i.image_id for i in reader.images if i.file_name not in images]
        if empty:
            self.note("photographs without a segment, left out", *empty)
        return images

    def _note_shared(self, readers: Mapping[str, CocoReader]) -> None:
        """Reports photographs that several splits have: scores on them mean little."""
        found: dict[tuple[int, str | None], str] = {}
        for split, reader in readers.items():
            for image in reader.images:
                finder = reader.photographs
                file = id(finder), finder.find(image.file_name)
                if file[1] is not None and found.setdefault(file, split) != split:
                    what = f"photographs of both {found[file]} and {split}"
                    self.note(what, image.file_name)


def _paths_by_json(
    what: str, text: str, annotations: Mapping[str, str]
) -> Mapping[str, str]:
    """Returns a path for each JSON; one path is for all of them."""
    paths = parse_split_paths(text)
    if set(paths) == {""}:
        return dict.fromkeys(annotations, paths[""])
    if set(paths) != set(annotations):
        raise ValueError(
            f"--{what}={text} is not for the splits of --annotations: give one PATH, or "
            + ",".join(f"{split or TRAIN}=PATH" for split in annotations)
        )
    return paths


def _used_categories(table: CocoTable) -> set[Any]:
    """Returns the categories of the annotations, of instances or of segments_info."""
    used = set()
    for annotation in table.annotations:
        if isinstance(annotation, Mapping):
            segments = annotation.get("segments_info") or []
            used |= {getattr(segment, "category", None) for segment in segments}
        else:
            used.add(getattr(annotation, "category", None))
    return used


def _common_classes(tables: Sequence[CocoTable]) -> tuple[ClassInfo, ...]:
    """Returns the classes that all tables have, by id; ValueError where they differ."""
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

"""The base of builders that read the labels of an annotation tool as a COCO table.

A subclass says what its files hold. Everything else, from splits to messages, is that
of `coco_format`.
"""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from eomt_jax.datasets import object_shapes
from eomt_jax.datasets.class_lists import read_class_list
from eomt_jax.datasets.coco_format import CocoFormat
from eomt_jax.datasets.coco_objects import AnnotatedObject
from eomt_jax.datasets.coco_table import CocoTable, make_table
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.photographs import PICTURE_ENDINGS
from eomt_jax.datasets.sources import (
    ARCHIVE_ENDINGS,
    MAX_FILE,
    Source,
    open_source,
    some,
)
from eomt_jax.datasets.spellings import plain
from eomt_jax.datasets.splits import Share
from eomt_jax.regular_files import check_regular

_ADVICE = "see data/README.md"


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a tool's labels.

    Attributes:
      split: of --annotations; "" where one path is for all.
      source: folder or archive of the labels.
      file: what --annotations names, where that is a file of labels.
      photographs: where the photographs are, by default in the same place.
    """

    split: str
    source: Source
    file: epath.Path | None
    photographs: FileFinder

    def read_files(self, *endings: str) -> Iterator[tuple[str, bytes]]:
        """Yields name and content of the labels' files that have one of the endings."""
        if self.file:
            check_regular(self.file, max_bytes=MAX_FILE)
            yield self.file.name, self.file.read_bytes()
            return
        for name in self.source.names():
            if name.lower().endswith(endings):
                yield name, self.source.read(name)

    def pictures(self, folder: str = "") -> list[str]:
        """Returns the names of the photographs in a folder, without it."""
        names = self.photographs.source.names(folder)
        return [name for name in names if name.lower().endswith(PICTURE_ENDINGS)]


@dataclasses.dataclass
class Export:
    """Labels of one split.

    Attributes:
      name: of their file, folder or archive, for messages.
      photographs: where the photographs are.
      classes: rows with a name, and with an id and a color where the labels say them;
        names that only the objects have need no row.
      images: rows as a COCO JSON has them.
      objects: label and annotation of each, which `add` makes.
    """

    name: str
    photographs: FileFinder
    classes: Sequence[dict[str, Any]] = ()
    images: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    objects: list[tuple[str, AnnotatedObject]] = dataclasses.field(default_factory=list)

    def add(
        self, image: dict[str, Any], shapes: Iterable[tuple[str, Any, Any]]
    ) -> None:
        """Adds a photograph.

        Args:
          image: its row.
          shapes: label, group and parts of each shape, see `object_shapes.join`. Shapes
            of one label and group are one object; without a group (None), each is one.
        """
        objects: dict[tuple[str, Any], list[Any]] = {}
        for number, (label, group, parts) in enumerate(shapes, 1):
            thing_id = number if group is None else f"group {group}"
            objects.setdefault((label, thing_id), []).extend(parts)
        self.images.append(image)
        size = image.get("height", 0), image.get("width", 0)
        for (label, thing_id), parts in objects.items():
            segmentation, num_flat = object_shapes.join(parts, size)
            thing = AnnotatedObject(
                id=thing_id,
                image_id=image["id"],
                category=0,  # the class has no number yet
                crowd=0,
                area=None,
                segmentation=segmentation,
                num_flat=num_flat,
            )
            self.objects.append((label, thing))


class ToolFormat(CocoFormat):
    """A builder of a user's photographs with the labels of an annotation tool."""

    crowd_advice = ""

    def __init__(
        self,
        *,
        annotations: str,
        images: str = "",
        classes: epath.PathLike = "",
        validation: Share = None,
        test: Share = None,
        split_seed: int = 0,
        skip_damaged: bool = False,
        negatives: bool = False,
        **kwargs: Any,
    ):
        """Paths are PATH or train=PATH,validation=PATH,…; see data/README.md.

        Args:
          annotations: folder, archive or file of the labels.
          images: folder or archive of the photographs; by default they are with the
            labels.
          classes: see class_lists; by default the names that the labels have.
          validation: see CocoFormat.
          test: see CocoFormat.
          split_seed: of what is drawn.
          skip_damaged: leaves out photographs that can't be decoded.
          negatives: keeps photographs without an object in training too.
          **kwargs: see RecordBuilder.

        Raises:
          ValueError: an option that isn't as above.
        """
        super().__init__(
            annotations=annotations,
            images=images or annotations,
            validation=validation,
            test=test,
            split_seed=split_seed,
            skip_damaged=skip_damaged,
            negatives=negatives,
            **kwargs,
        )
        self.class_list = read_class_list(classes).classes if classes else ()
        self.has_images = bool(images)
        self._exports: dict[str, Export] = {}

    @abc.abstractmethod
    def read(self, place: Place) -> Mapping[str, Export]:
        """Returns the labels by split; ValueError where they aren't of the format."""

    def read_tables(self) -> Mapping[str, CocoTable]:
        given = super().open_photographs() if self.has_images else {}
        for split, path in self.annotations.items():
            path = epath.Path(path).expanduser()
            is_file = path.is_file() and path.suffix.lower() not in ARCHIVE_ENDINGS
            folder = self.find_root(path) if is_file else path
            source = self.open_files.enter_context(open_source(folder))
            photographs = given.get(split) or FileFinder(source)
            file = path if is_file else None
            self._exports |= self.read(Place(split, source, file, photographs))
        rows = self._class_rows()
        ids = {plain(row["name"]): row["id"] for row in rows}
        ids |= {row["name"]: row["id"] for row in rows}
        return {
            split: make_table(
                {
                    "images": export.images,
                    "annotations": _with_ids(export, ids),
                    "categories": rows,
                },
                name=export.name,
                source=_ADVICE,
            )
            for split, export in self._exports.items()
        }

    def open_photographs(self) -> Mapping[str, FileFinder]:
        return {split: export.photographs for split, export in self._exports.items()}

    def find_root(self, path: epath.Path) -> epath.Path:
        """Returns the folder that a file of labels is about, by default its own."""
        return path.parent

    def _class_rows(self) -> list[dict[str, Any]]:
        """Returns the categories of all splits: --classes, else what the labels name."""
        if self.class_list:
            fields = ("id", "name", "color")
            return [{f: getattr(c, f) for f in fields} for c in self.class_list]
        rows: dict[str, dict[str, Any]] = {}
        for export in self._exports.values():
            for row in export.classes:
                rows.setdefault(row["name"], row)
        things = [t for export in self._exports.values() for t in export.objects]
        for name in sorted({label for label, _ in things} - rows.keys()):
            rows[name] = {"name": name}
        return [{"id": number, **row} for number, row in enumerate(rows.values(), 1)]


def _with_ids(export: Export, ids: Mapping[str, int]) -> list[AnnotatedObject]:
    """Returns the objects with the ids of their classes."""
    labels = {label for label, _ in export.objects}
    found = {label: ids.get(label, ids.get(plain(label))) for label in labels}
    unknown = [label for label, class_id in found.items() if class_id is None]
    if unknown:
        raise ValueError(
            f"{export.name} has the labels {some(unknown)}, which are not in the class "
            "list: add them to --classes, or leave --classes out"
        )
    return [
        thing._replace(category=found[label] or 0) for label, thing in export.objects
    ]

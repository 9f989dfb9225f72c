"""Class tables of the published datasets, in label order.

The builders read them, and all code that needs names and colours without a prepared
dataset. A class's position in its table is its label.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from importlib import resources

from eomt_jax.types import ClassInfo, DatasetInfo

ClassTable = tuple[ClassInfo, ...]


def available() -> tuple[str, ...]:
    """Returns the names of the datasets whose class tables are here."""
    files = resources.files(__name__).iterdir()
    tables = [f.name[:-5] for f in files if f.name.endswith(".json")]
    return tuple(sorted([*tables, *_DERIVED]))


def load_classes(name: str) -> ClassTable:
    """Returns the class table of the dataset `name`; ValueError if it is unknown."""
    if name in _DERIVED:
        other, derive = _DERIVED[name]
        return derive(load_classes(other))
    if name not in available():
        raise ValueError(
            f"no class table of dataset {name!r}; there is {', '.join(available())}"
        )
    table = (resources.files(__name__) / f"{name}.json").read_text(encoding="utf-8")
    return tuple(
        ClassInfo(**{**row, "color": tuple(row["color"])}) for row in json.loads(table)
    )


def published_info(name: str) -> DatasetInfo:
    """Returns classes and task of the published dataset `name`, without sizes.

    Raises:
      ValueError: there is no such class table.
    """
    return DatasetInfo(
        name=name,
        classes=load_classes(name),
        max_image_size=(0, 0),
        max_segments=0,
        num_examples={},
        task=name.rpartition("_")[2],
    )


def find_published(
    class_names: Sequence[str], task: str | None = None
) -> DatasetInfo | None:
    """Returns the published dataset whose classes have these names in this order.

    Args:
      class_names: names in label order.
      task: chooses between two datasets that share their classes, as ADE20K's do; None
        takes the panoptic one, which distinguishes things and stuff.
    """
    for name in available():
        info = published_info(name)
        same_names = [c.name for c in info.classes] == list(class_names)
        if same_names and task in (None, info.task):
            return info
    return None


def _only_things(classes: ClassTable) -> ClassTable:
    return tuple(c for c in classes if c.is_thing)


def _only_regions(classes: ClassTable) -> ClassTable:
    """Returns the classes as stuff, since a semantic task has no objects."""
    return tuple(dataclasses.replace(c, is_thing=False) for c in classes)


# Tables that are parts of others, with the same ids, names and colours.
_DERIVED: dict[str, tuple[str, Callable[[ClassTable], ClassTable]]] = {
    "ade20k_semantic": ("ade20k_panoptic", _only_regions),
    "coco_instance": ("coco_panoptic", _only_things),
}

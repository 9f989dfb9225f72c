"""Reads a class table from whatever form a user has it in."""

import json
import os
from typing import Any

from etils import epath

from eomt_jax import dataset_info, json_files
from eomt_jax.dataset_info.class_tables import make_class_table
from eomt_jax.pipeline.records import is_prepared, prepared_versions, read_prepared_info
from eomt_jax.types import DatasetInfo


def open_info(source: epath.PathLike | DatasetInfo) -> DatasetInfo:
    """Returns the classes and the task that a user names.

    Args:
      source: the name of a published dataset ("coco_panoptic"); the folder of a
        prepared one; a JSON file with a DatasetInfo, with a list of classes
        ([{"id": 1, "name": "cat", "isthing": 1}, …]) or with such a list as its
        "categories", as every COCO annotation has it; or a DatasetInfo itself.

    Raises:
      ValueError: it is none of these, or damaged.
    """
    if isinstance(source, DatasetInfo):
        return source
    name = os.fspath(source)
    if name in dataset_info.available():
        return dataset_info.published_info(name)
    path = epath.Path(source).expanduser()
    if path.is_dir():
        versions = [path] if is_prepared(path) else []
        versions += prepared_versions(path.parent, path.name)
        if not versions:
            raise ValueError(
                f"{path} holds no prepared dataset: name the folder below --data_dir "
                "that has the dataset's own name"
            )
        return read_prepared_info(versions[-1])
    if not path.exists():
        known = ", ".join(dataset_info.available())
        raise ValueError(
            f"{name} is neither a file or folder nor one of the published datasets "
            f"({known})"
        )
    return _read_json(path)


def unknown_info(num_classes: int) -> DatasetInfo:
    """Returns a table of classes named class_0 …, all of which count as things."""
    rows = [{"id": k, "name": f"class_{k}"} for k in range(num_classes)]
    return _as_info("unknown", rows, "panoptic", file="")


def _read_json(path: epath.Path) -> DatasetInfo:
    value = json_files.read_value(path)
    rows = value
    if isinstance(value, dict):
        if "classes" in value:
            try:
                return DatasetInfo.from_json(json.dumps(value))
            except (TypeError, KeyError, ValueError) as error:
                raise ValueError(
                    f"{path} has classes but isn't a whole DatasetInfo ({error}); a "
                    "plain list of classes is enough"
                ) from error
        rows = value.get("categories")
    is_list = isinstance(rows, list)
    if not is_list:
        raise ValueError(
            f'{path} holds no classes: write [{{"id": 1, "name": "cat"}}, …]'
        )
    return _as_info(path.stem, rows, None, file=os.fspath(path))


def _as_info(name: str, rows: list[Any], task: str | None, *, file: str) -> DatasetInfo:
    classes = make_class_table(rows, file=file)
    if task is None:
        things = [c.is_thing for c in classes]
        task = "instance" if all(things) else "panoptic" if any(things) else "semantic"
    return DatasetInfo(
        name=name,
        classes=classes,
        max_image_size=(0, 0),
        max_segments=0,
        num_examples={},
        task=task,
    )

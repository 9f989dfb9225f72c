"""A JSON of COCO's formats as a table, whose rows are made small while it is read.

As dicts, what COCO publishes fills the memory of a small machine.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from eomt_jax.datasets import coco_schema


@dataclasses.dataclass(frozen=True)
class CocoTable:
    """A JSON of COCO's, its annotations in the form that one reader wants.

    Attributes:
      name: of the file, for messages.
      source: where to get it, or what to do about it, for messages.
      images: rows by image id.
      annotations: in the file's order.
      categories: rows.
    """

    name: str
    source: str
    images: Mapping[Any, Mapping[str, Any]]
    annotations: Sequence[Any]
    categories: Sequence[Mapping[str, Any]]


def read_table(
    text: bytes, *, name: str, source: str, format: str, shrink: Callable[[dict], Any]
) -> CocoTable:
    """Reads a JSON.

    Args:
      text: of the JSON.
      name: of the file, for messages.
      source: where to get it, for messages.
      format: the format's name, for messages.
      shrink: makes an object of the file small, or returns it as it is.

    Raises:
      ValueError: the text is no JSON, or has no images, annotations or categories.
    """
    try:
        rows = json.loads(text, object_hook=shrink)
        return make_table(rows, name=name, source=source)
    except RecursionError as error:
        what = ValueError("it is nested too deeply")
        raise not_of_the_format(name, format, source, what) from error
    except ValueError as error:
        raise not_of_the_format(name, format, source, error) from error


def make_table(rows: Any, *, name: str, source: str) -> CocoTable:
    """Returns the table of rows as a JSON has them; ValueError where they don't fit."""
    coco_schema.check_table(rows)
    images = {row["id"]: row for row in rows["images"]}
    if len(images) < len(rows["images"]):
        raise ValueError("two images have one id")
    _check_named_once(images.values())
    return CocoTable(name, source, images, rows["annotations"], rows["categories"])


def _check_named_once(images: Iterable[Mapping[str, Any]]) -> None:
    names: set[str] = set()
    for row in images:
        file_name = row["file_name"]
        if file_name in names:
            raise ValueError(
                f"two images have the file_name {file_name}: give the photograph one "
                "row, and its annotations that row's id"
            )
        names.add(file_name)


def image_row(image_id: Any, table: CocoTable) -> Mapping[str, Any]:
    """Returns the row of an annotation's image; ValueError where there is none."""
    if image_id not in table.images:
        raise ValueError(
            f"an annotation is of image_id {coco_schema.short(image_id)}, which no image "
            "has"
        )
    return table.images[image_id]


def not_of_the_format(
    name: str, format: str, source: str, error: Exception
) -> ValueError:
    what = error if isinstance(error, ValueError) else repr(error)
    return ValueError(f"{name} is not {format} ({what}); {source}")

"""Says which of COCO's formats a JSON has."""

import json
from typing import Any

from etils import epath

from eomt_jax.regular_files import check_regular

INSTANCES, PANOPTIC = "instances", "panoptic"
_BOX = "box"
_FIELDS = ("images", "annotations", "categories")
_MAX_BYTES = 1 << 32


def kind_of(path: epath.PathLike) -> str:
    """Returns INSTANCES or PANOPTIC.

    Raises:
      ValueError: the file is no JSON, is one of another kind, or has no masks.
    """
    path = epath.Path(path).expanduser()
    check_regular(path, max_bytes=_MAX_BYTES)
    try:
        table = json.loads(path.read_bytes(), object_hook=_shrink)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON that can be read ({error})") from error
    return kind_of_table(table, name=str(path))


def kind_of_table(table: Any, *, name: str) -> str:
    """Returns the kind of a JSON's value whose annotations `_shrink` has made small."""
    if not isinstance(table, dict) or any(
        not isinstance(table.get(field), list) for field in _FIELDS
    ):
        what = type(table).__name__
        if isinstance(table, dict):
            what = f"the fields {', '.join(map(str, list(table)[:6]))}"[:200]
        raise ValueError(
            f"{name} is no COCO JSON: it has {what or 'nothing'}, where the lists "
            f"{', '.join(_FIELDS)} are wanted; export your labels as COCO JSON with masks"
        )
    kinds = set(map(str, table["annotations"]))
    if PANOPTIC in kinds:
        return PANOPTIC
    if INSTANCES in kinds:
        return INSTANCES
    if _BOX in kinds:
        raise ValueError(
            f"{name} has boxes and no masks: export the labels as polygons or masks"
        )
    raise ValueError(f"{name} has no annotation")


def _shrink(row: dict[str, Any]) -> Any:
    """Returns the kind of an annotation in its place, and other objects as they are."""
    if "segments_info" in row:
        return PANOPTIC
    if "image_id" in row and "category_id" in row:
        return INSTANCES if row.get("segmentation") else _BOX
    return row

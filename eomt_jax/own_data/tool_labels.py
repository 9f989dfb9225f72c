"""Recognises the labels of annotation tools by the files that they write."""

import contextlib
from collections.abc import Sequence
from typing import Any

from etils import epath

from eomt_jax import json_files
from eomt_jax.datasets.sources import ARCHIVE_ENDINGS, Source, open_source
from eomt_jax.datasets.spellings import last_part
from eomt_jax.datasets.splits import parse_split_paths
from eomt_jax.own_data.places import WANTED, Recognized

_NAMES = {
    "yolo": "YOLO's polygons",
    "labelme": "Labelme's outlines",
    "cvat": "CVAT's outlines",
}
_YAML = (".yaml", ".yml")


def tool_of(text: str) -> str:
    """Returns the format of datasets.prepare.FORMATS of a tool's labels, or ""."""
    path = epath.Path(next(iter(parse_split_paths(text).values()))).expanduser()
    if not path.exists():
        return ""
    ending = path.suffix.lower()
    if not path.is_dir() and ending not in ARCHIVE_ENDINGS:
        return "yolo" if ending in _YAML else "cvat" if ending == ".xml" else ""
    with open_source(path) as source:
        files = {last_part(name).lower() for name in source.names()}
        if files & {f"data{ending}" for ending in _YAML}:
            return "yolo"
        if "annotations.xml" in files:
            return "cvat"
        return "labelme" if _holds_labelme(source) else ""


def recognize_tool(
    tools: dict[str, str], texts: Sequence[str], *, classes: str
) -> Recognized:
    """Returns what the labels of a tool, with or without photographs, hold.

    Args:
      tools: formats of labels by their paths.
      texts: all paths that the user gives.
      classes: the user's class list, or "".

    Raises:
      ValueError: there are labels of several tools, or too many paths.
    """
    others = [text for text in texts if text not in tools]
    if len(tools) > 1 or len(others) > 1:
        raise ValueError(
            f"{len(texts)} paths are given, of {', '.join(tools)}: {WANTED}"
        )
    ((labels, tool),) = tools.items()
    options: dict[str, Any] = {"annotations": labels}
    if others:
        options["images"] = others[0]
    if classes:
        options["classes"] = classes
    where = f", of the photographs in {others[0]}" if others else ""
    sentence = f"{labels} has {_NAMES[tool]}{where}: instance segmentation."
    return Recognized(tool, "instance", options, sentence)


def _holds_labelme(source: Source) -> bool:
    for name in source.names():
        if name.lower().endswith(".json"):
            with contextlib.suppress(ValueError):
                table = json_files.parse(source.read(name), source=name)
                return isinstance(table, dict) and "shapes" in table
    return False

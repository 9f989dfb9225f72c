"""Class lists that users have: names, and the values or colours of masks for each.

Four forms are read: a text with a name on each line; a JSON list of rows; a CSV with the
columns name, r, g, b (id, where it isn't the row's number), or with name and id (Roboflow's
_classes.csv calls them Class and Pixel Value); and CVAT's labelmap.txt.
"""

import csv
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from eomt_jax import json_files
from eomt_jax.dataset_info.class_tables import make_class_table
from eomt_jax.datasets.sources import some
from eomt_jax.regular_files import MAX_JSON, check_regular
from eomt_jax.types import ClassInfo

MAX_VALUE = (1 << 16) - 1  # that a PNG can have in one channel
IGNORE, OTHERS = "ignore", "others"
_CVAT = "# label:color_rgb"
_COLUMNS = {
    **dict.fromkeys(("name", "class", "label", "class_name"), "name"),
    **dict.fromkeys(("r", "red"), "r"),
    **dict.fromkeys(("g", "green"), "g"),
    **dict.fromkeys(("b", "blue"), "b"),
    **dict.fromkeys(("id", "pixel value"), "id"),
}
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclasses.dataclass(frozen=True)
class ClassList:
    """Classes, and what masks have for each.

    Attributes:
      classes: `id` is the value in masks with one channel.
      colors: classes' ids by the colours 0xRRGGBB that the list gives; empty where it
        gives none.
    """

    classes: tuple[ClassInfo, ...]
    colors: Mapping[int, int]


@dataclasses.dataclass(frozen=True)
class Remap:
    """Values and colours of masks that mean other classes than the list says.

    Attributes:
      values: ids by value; None for no class.
      colors: ids by colour 0xRRGGBB; None for no class.
      has_others: whether there is a class for whatever is in no list.
      others: that class's id; None for no class.
    """

    values: Mapping[int, int | None]
    colors: Mapping[int, int | None]
    has_others: bool
    others: int | None


def read_class_list(path: epath.PathLike) -> ClassList:
    """Returns the classes from one of the forms above.

    Raises:
      ValueError: no such file, or one that isn't as it should be.
    """
    path = epath.Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"--classes={path} is no file")
    check_regular(path, max_bytes=MAX_JSON)
    try:
        text = path.read_bytes().decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error})") from error
    rows = _read_rows(text, path)
    classes = make_class_table(rows, file=os.fspath(path))
    wrong = [c.id for c in classes if not 0 <= c.id <= MAX_VALUE]
    if wrong:
        raise ValueError(
            f"{path} has the id {wrong[0]}; a PNG has values of 0 to {MAX_VALUE}"
        )
    colors: dict[int, int] = {}
    for row, c in zip(rows, classes, strict=True):
        if row.get("color"):
            colors.setdefault(pack(c.color), c.id)
    return ClassList(classes, colors)


def pack(color: Sequence[int]) -> int:
    """Returns 0xRRGGBB of (R, G, B)."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def read_remap(text: str, classes: Sequence[ClassInfo]) -> Remap:
    """Reads "3=1,4=1,7=ignore,#e0e0c0=ignore,others=0".

    Raises:
      ValueError: the text is another one, or names a class that isn't there.
    """
    names = {c.id: c.name for c in classes}
    values: dict[int, int | None] = {}
    colors: dict[int, int | None] = {}
    others: list[int | None] = []
    for part in filter(None, text.split(",")):
        source, equals, target = (side.strip() for side in part.partition("="))
        target_id = (
            None if target == IGNORE else number("remap", target if equals else "")
        )
        if target_id is not None and target_id not in names:
            raise ValueError(
                f"--remap={text}: there is no class {target}; the class list has "
                + some(f"{key} ({name})" for key, name in names.items())
            )
        is_twice = False
        if source == OTHERS:
            is_twice = bool(others)
            others.append(target_id)
        elif _COLOR.fullmatch(source):
            is_twice = int(source[1:], 16) in colors
            colors[int(source[1:], 16)] = target_id
        else:
            value = number("remap", source)
            is_twice = value in values
            values[value] = target_id
        if is_twice:
            raise ValueError(f"--remap={text}: {source} comes twice")
    return Remap(values, colors, bool(others), others[0] if others else None)


def number(option: str, text: int | str) -> int:
    """Returns a mask's value from an option's text; ValueError where it is none."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= MAX_VALUE:
        form = ", as in 3=1,#ff0000=2,7=ignore,others=0" if option == "remap" else ""
        raise ValueError(
            f"--{option} has {text!r} where a value of 0 to {MAX_VALUE} is wanted{form}"
        )
    return value


def _read_rows(text: str, path: epath.Path) -> Sequence[Mapping[str, Any]]:
    if text.startswith(("[", "{")):
        rows = json_files.parse(text, source=str(path))
        if not isinstance(rows, list):
            raise ValueError(
                f'{path} is no list: write [{{"id": 0, "name": "road"}}, …]'
            )
        return rows
    lines = text.splitlines()
    if lines and lines[0].replace(" ", "").startswith(_CVAT.replace(" ", "")):
        fields = [f"{line}:".split(":") for line in lines[1:] if line.strip()]
        return [_row(i, f[0], f[1].split(","), path) for i, f in enumerate(fields)]
    rows = read_csv(lines, _COLUMNS)
    if rows and {"name", "r", "g", "b"} <= set(rows[0]):
        return [
            _row(row.get("id", i), row.get("name"), [row.get(c) for c in "rgb"], path)
            for i, row in enumerate(rows)
        ]
    if rows and {"name", "id"} <= set(rows[0]):
        return [_row(row.get("id"), row.get("name"), (), path) for row in rows]
    if path.suffix.lower() == ".csv":
        raise ValueError(
            f"{path} has the columns {', '.join(rows[0]) if rows else 'of no rows'}; its "
            "first line has to name the columns name,r,g,b"
        )
    return [{"id": i, "name": name} for i, name in enumerate(lines)]


def read_csv(
    lines: Sequence[str], other_names: Mapping[str, str]
) -> list[dict[str, str]]:
    """Returns the rows below the first line, which names the columns; , or ; separates.

    Args:
      lines: of the file.
      other_names: of columns, in small letters.
    """
    if not lines:
        return []
    delimiter = max(",;", key=lines[0].count)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        header, *rows = reader
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of a table: {error}") from error
    names = [name.strip().lower() for name in header]
    columns = [other_names.get(name, name) for name in names]
    return [
        dict(zip(columns, map(str.strip, row)))
        for row in rows
        if any(map(str.strip, row))
    ]


def _row(class_id: Any, name: Any, color: Any, path: epath.Path) -> dict[str, Any]:
    try:
        return {"id": int(class_id), "name": name, "color": [int(c) for c in color]}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: the class {name!r} has no whole numbers as id, r, g and b"
        ) from error

"""Checks class tables that users bring, and gives every class a colour."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging
from PIL import ImageColor

from eomt_jax.class_colors import distinct_color
from eomt_jax.types import ClassInfo


def make_class_table(
    rows: Sequence[Mapping[str, Any]], *, file: str
) -> tuple[ClassInfo, ...]:
    """Makes classes of rows like COCO's categories, in their order.

    Args:
      rows: each has an "id" and a "name". It may have "isthing" (or "is_thing"), which
        is 1 by default, and "color": RGB(A), 0 to 255, or a text such as "#ff0000".
        Without it, or with a text that is no colour, the class has `distinct_color`.
      file: the file that they come from, for messages.

    Raises:
      ValueError: there are no rows, one isn't as above, or an id or name comes twice.
    """
    if not rows:
        raise ValueError(f"{file} has no classes")
    classes = [_make_class(row, i, file) for i, row in enumerate(rows)]
    for field in ("id", "name"):
        values = [str(getattr(c, field)) for c in classes]
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise ValueError(
                f"{file} has two classes with the {field} {_some(twice):.200}"
            )
    return tuple(classes)


def _read_color(text: str, file: str) -> tuple[int, ...]:
    """Returns RGB from the text of an annotation tool; empty if it is no colour."""
    try:
        return ImageColor.getrgb(text.strip())[:3]
    except ValueError:
        logging.warning("%s: the color %.80r is none; another is taken", file, text)
        return ()


def _some(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return first + (f" and {len(others)} more" if others else "")


def _check_numbers(row: Any, number: int, file: str) -> None:
    """Raises ValueError for an id that is a bool or too large, or a wrong "isthing"."""
    if not isinstance(row, dict):
        return
    class_id = row.get("id", 0)
    if isinstance(class_id, bool) or isinstance(class_id, int) and class_id >> 31 > 0:
        raise ValueError(f"{file}: class {number + 1} has the id {class_id!r:.80}")
    for key in ("isthing", "is_thing"):
        value = row.get(key, 0)
        if not isinstance(value, int | float) or value not in (0, 1):
            raise ValueError(
                f"{file}: class {number + 1} has {key} = {value!r:.80}, not 0 or 1"
            )


def _make_class(row: Any, number: int, file: str) -> ClassInfo:
    _check_numbers(row, number, file)
    try:
        class_id, name = row["id"], row["name"]
        is_thing = row.get("isthing", row.get("is_thing", True))
        color: Any = row.get("color") or distinct_color(number)
        color = tuple(_read_color(color, file) if isinstance(color, str) else color)
        color = color[:3] if len(color) == 4 else color or distinct_color(number)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}: class {number + 1} lacks an id or a name: {row!r:.200}"
        ) from error
    if not isinstance(class_id, int) or not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"{file}: a class has a whole number as id and a text as name, not "
            f"{row!r:.200}"
        )
    is_rgb = len(color) == 3 and all(isinstance(c, int) for c in color)
    if not is_rgb or not 0 <= min(color) <= max(color) <= 255:
        raise ValueError(f"{file}: a color is [R, G, B] of 0 to 255, not {row!r:.200}")
    return ClassInfo(class_id, name.strip(), bool(is_thing), color)

"""The shape of a COCO JSON, checked once, where it is read.

Readers rely on the types of what has passed. Each error names the row, the field and the
value, at a bounded length.
"""

import math
import reprlib
import unicodedata
from collections.abc import Mapping
from typing import Any

from eomt_jax.datasets.sources import shorten

MAX_SIDE = 1 << 20  # pixels of a photograph's height or width
MAX_LETTERS = 1024  # of a name or an id
MAX_ID = (1 << 62) - 1
_MAX_SHOWN = 200  # letters of a value in a message
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxlong = _SHOWN.maxother = 80
_SHOWN.maxlevel = 2  # six values of each of six lists of six would be many


def short(value: Any) -> str:
    """Returns a value as Python writes it, at a bounded length and depth."""
    return shorten(_SHOWN.repr(value), _MAX_SHOWN)


def check_table(table: Any) -> None:
    """Raises ValueError unless a JSON's own fields, images and categories fit.

    Annotations are checked one by one while the JSON is parsed, and by their readers.
    """
    if not isinstance(table, dict):
        raise ValueError(f"it holds {short(table)}, not an object")  # noqa: TRY004
    for field in ("images", "annotations", "categories"):
        if not isinstance(table.get(field), list):
            what = short(table[field]) if field in table else "missing"
            raise ValueError(f"{field} is {what}, not a list")  # noqa: TRY004
    for field, check in (("images", _check_image), ("categories", _check_category)):
        for number, row in enumerate(table[field]):
            try:
                if not isinstance(row, dict):
                    raise ValueError("it is no object")  # noqa: TRY004
                check(row)
            except ValueError as error:
                raise ValueError(f"{field}[{number}] is wrong: {error}") from error


def _check_image(row: dict[str, Any]) -> None:
    identifier(row, "id")
    text(row, "file_name")
    for side in ("height", "width"):
        if row.get(side) not in (None, ""):
            row[side] = whole_number(row, side, high=MAX_SIDE)


def _check_category(row: dict[str, Any]) -> None:
    whole_number(row, "id", low=-MAX_ID)
    if "name" in row:
        text(row, "name")
    if not isinstance(row.get("supercategory", ""), str | None):
        what = f"supercategory is {short(row['supercategory'])}, not a text"
        raise ValueError(what)  # noqa: TRY004
    if "isthing" in row:
        flag(row, "isthing")


def identifier(row: Mapping[str, Any], field: str) -> Any:
    """Returns a field that is an id: a whole number or a text."""
    value = _get(row, field)
    if isinstance(value, str):
        fits = len(value) <= MAX_LETTERS
    elif isinstance(value, float):
        fits = value.is_integer() and abs(value) <= MAX_ID
    else:
        fits = type(value) is int and abs(value) <= MAX_ID
    if fits:
        return value
    raise ValueError(f"{field} is {short(value)}, not a whole number or a text")


def text(row: Mapping[str, Any], field: str) -> str:
    """Returns a field that is a text of bounded length that can be printed."""
    value = _get(row, field)
    if isinstance(value, str) and 0 < len(value) <= MAX_LETTERS:
        if not any(unicodedata.category(sign) in ("Cc", "Cs") for sign in value):
            return value
        raise ValueError(f"{field} is {short(value)}, with characters that are no text")
    raise ValueError(
        f"{field} is {short(value)}, not a text of 1 to {MAX_LETTERS:,} letters"
    )


def whole_number(
    row: Mapping[str, Any], field: str, *, low: int = 0, high: int = MAX_ID
) -> int:
    """Returns a field that is a whole number in a range; a text may have its digits."""
    value = _get(row, field)
    number = value
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        number = int(value)
    is_whole = type(number) is int or isinstance(number, float) and number.is_integer()
    if is_whole and low <= number <= high:
        return int(number)
    raise ValueError(
        f"{field} is {short(value)}, not a whole number of {low:,} to {high:,}"
    )


def flag(row: Mapping[str, Any], field: str) -> int:
    """Returns a field that is 0 or 1, which it is where it is missing: 0."""
    value = row.get(field, 0)
    if isinstance(value, int | float) and value in (0, 1):
        return int(value)
    raise ValueError(f"{field} is {short(value)}, not 0 or 1")


def number(row: Mapping[str, Any], field: str, *, what: str) -> float | None:
    """Returns a field that is a finite number from 0, or None where it is missing."""
    value = row.get(field)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value < math.inf and value <= MAX_ID:
        return float(value)
    raise ValueError(f"the {field} is {short(value)}, not {what}")


def _get(row: Mapping[str, Any], field: str) -> Any:
    if field not in row:
        raise ValueError(f"{field} is missing")
    return row[field]

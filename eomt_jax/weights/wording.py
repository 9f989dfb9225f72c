"""Shortens names, values and errors for messages."""

import reprlib
from collections.abc import Collection
from typing import Any

MAX_LISTED = 50
_MAX_LENGTH = 200  # letters of one name or value

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _MAX_LENGTH
_SHORT.maxlevel = 3


def listed(names: Collection[str]) -> str:
    """Returns names joined by commas, neither too many nor too long."""
    if not names:
        return "none"
    some = [_cut(name) for name, _ in zip(names, range(MAX_LISTED))]
    more = len(names) - MAX_LISTED
    return ", ".join(some) + (f" and {more} more" if more > 0 else "")


def shown(value: Any) -> str:
    """Returns a value from a file in Python's notation, shortened."""
    return _cut(_SHORT.repr(value))


def reason(error: Exception) -> str:
    """Returns why something could not be read, in words that fit the file."""
    if isinstance(error, KeyError):
        return (
            f"{shown(error.args[0])} is missing" if error.args else "a key is missing"
        )
    return _first_line(error) or type(error).__name__


def typed_reason(error: Exception) -> str:
    """Returns an error's type and the first line of what it says."""
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return _cut(str(error).strip().split("\n")[0])


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]} …"

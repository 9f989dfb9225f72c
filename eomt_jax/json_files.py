"""Reads JSON files; all code reads them here, so that size and content are checked."""

import json
from typing import Any

from etils import epath

from eomt_jax.regular_files import MAX_JSON, check_regular


def read_object(path: epath.PathLike) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
      ValueError: the file is no regular one, too large, no JSON or holds something
        else; the message names it.
    """
    value = read_value(path)
    if isinstance(value, dict):
        return value
    raise ValueError(f"{path} holds a {type(value).__name__}; wanted an object.")


def read_value(path: epath.PathLike) -> Any:
    """Returns whatever a JSON file holds; errors are those of `read_object`."""
    check_regular(path, max_bytes=MAX_JSON)
    try:
        text = epath.Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return parse(text, source=str(path))


def parse(text: str | bytes, *, source: str) -> Any:
    """Returns the value of a JSON text.

    Args:
      text: the text, or its bytes.
      source: the file or other origin of the text, for messages.

    Raises:
      ValueError: the text is no JSON or is nested too deeply; the message names the
        source.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{source} is no JSON: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{source} is no JSON: {error}") from error

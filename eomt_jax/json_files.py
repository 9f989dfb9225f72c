"""JSON files, read through one door: regular files of bounded size, and parsed safely."""

import json
from typing import Any

from etils import epath

from eomt_jax.regular_files import MAX_JSON, check_regular


def read_object(path: epath.PathLike) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
      ValueError: naming the file, which is no regular one, too large, no JSON or holds
        something else.
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
      text: of the file, or its bytes.
      source: what the text is of, for messages.

    Raises:
      ValueError: naming the source, whose text is no JSON or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{source} is no JSON: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{source} is no JSON: {error}") from error

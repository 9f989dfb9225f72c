"""Writes the fields of every recipe to texts, which show the effects of a change.

This rewrites the texts, whose changes belong to the same commit:

    python -m tests.configs.golden
"""

import importlib
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = pathlib.Path(__file__).parent / "golden"
RECIPES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if path.stem not in ("__init__", "common", "ladder")
)


def get_config(name: str) -> ml_collections.ConfigDict:
    """Returns the recipe `name`."""
    return importlib.import_module(f"configs.{name}").get_config()


def fields(
    config: ml_collections.ConfigDict, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every field, in alphabetical order."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def resolved_text(name: str) -> str:
    """Returns one line for each field of the recipe `name`."""
    lines = [f"{path} = {value!r}" for path, value in fields(get_config(name))]
    return "\n".join(lines) + "\n"


def main() -> None:
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name in RECIPES:
        (FOLDER / f"{name}.txt").write_text(resolved_text(name))
    print(f"{len(RECIPES)} recipes written to {FOLDER}")


if __name__ == "__main__":
    main()

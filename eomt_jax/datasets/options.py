"""Checks a builder's options, and compares them with those of a finished build."""

import hashlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from eomt_jax import json_files
from eomt_jax.datasets.builder import OPTIONS_KEY, RecordBuilder
from eomt_jax.datasets.sources import ARCHIVE_ENDINGS
from eomt_jax.datasets.splits import parse_split_paths
from eomt_jax.regular_files import check_regular

# Options that are files or folders, one for each split or one for all.
_PATHS = ("images", "masks", "segments", "annotations", "classes", "object_classes")
# The place of published archives makes no other dataset of them.
_WITHOUT_EFFECT = ("archives",)


def check_options(
    name: str, builder_class: type[RecordBuilder], options: Mapping[str, Any]
) -> None:
    """Raises ValueError where a dataset doesn't know an option, or lacks one that it needs."""
    known = _defaults(builder_class)
    unknown = [f"--{option}" for option in options if option not in known]
    if unknown:
        has = ", ".join(f"--{option}" for option in known) or "none"
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {has}")
    needed = [
        f"--{option}"
        for option, default in known.items()
        if default is inspect.Parameter.empty and option not in options
    ]
    if needed:
        raise ValueError(f"{name} needs {', '.join(needed)}; see data/README.md")


def describe_options(
    builder_class: type[RecordBuilder], options: Mapping[str, Any]
) -> dict[str, str]:
    """Returns every option as text, given or not; files by their contents."""
    values = {**_defaults(builder_class), **options}
    return {
        "builder": builder_class.__name__,
        **{
            name: _describe_paths(value) if name in _PATHS and value else _text(value)
            for name, value in values.items()
            if name not in _WITHOUT_EFFECT
        },
    }


def check_same(
    name: str, target: epath.Path, options: Mapping[str, str], defaults_of: type
) -> None:
    """Raises ValueError where the finished build in `target` was made with other options."""
    metadata = json_files.read_object(target / "metadata.json")
    before = metadata.get(OPTIONS_KEY)
    if before is None:
        return  # a build of an earlier version, which wrote none
    defaults = {key: _text(value) for key, value in _defaults(defaults_of).items()}
    differing = []
    for key, value in options.items():
        old = before.get(key, defaults.get(key, ""))
        if old != value:
            differing.append(
                f"--{key} {old or 'not given'}, now {value or 'not given'}"
            )
    if differing:
        raise ValueError(
            f"{name} is in {target} already, prepared with other options: "
            f"{'; '.join(differing)}. --overwrite replaces it; another --name keeps both"
        )


def _describe_paths(text: Any) -> str:
    described = []
    for split, path in parse_split_paths(os.fspath(text)).items():
        path = epath.Path(path).expanduser()
        value = os.path.abspath(path) if "://" not in os.fspath(path) else str(path)
        if path.is_file() and path.suffix.lower() not in ARCHIVE_ENDINGS:
            check_regular(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
            value = f"{path.name} (contents {digest})"
        described.append(f"{split}={value}" if split else value)
    return ",".join(described)


def _text(value: Any) -> str:
    if value is None or value is inspect.Parameter.empty:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _defaults(builder_class: type[RecordBuilder]) -> dict[str, Any]:
    """Returns options that a builder has beyond those of all, with their defaults."""
    parameters = inspect.signature(builder_class.__init__).parameters
    common = inspect.signature(RecordBuilder.__init__).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in common
    }

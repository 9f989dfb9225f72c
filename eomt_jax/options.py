"""Options of a component: dataclass fields with a default, a range and a sentence.

A component declares its options as a frozen dataclass beside it, each field by `option`.
A dataclass of such dataclasses describes a whole run. From it follow the ConfigDict of
the command line, its check, the typed values, and what --help prints.
"""

import dataclasses
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from ml_collections import ConfigDict

T = TypeVar("T")

# Schedules are computed in float32, which counts exactly up to here.
MAX_STEPS = 2**24
# A message lists at most so many problems.
_MAX_LISTED = 8


@runtime_checkable
class Range(Protocol):
    """Decides which values a field takes; its text completes "it must be …"."""

    def accepts(self, value: Any) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`, or `special`."""

    low: int
    high: int
    special: int | None = None

    def accepts(self, value: Any) -> bool:
        inside = type(value) is int and self.low <= value <= self.high
        return inside or (type(value) is int and value == self.special)

    def __str__(self) -> str:
        other = "" if self.special is None else f", or {self.special}"
        return f"a whole number from {self.low:,} to {self.high:,}{other}"


@dataclasses.dataclass(frozen=True)
class Real:
    """A finite number from `low` to `high`; `above` excludes `low`, `below` `high`."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def accepts(self, value: Any) -> bool:
        if type(value) not in (int, float) or not self.low <= value <= self.high:
            return False
        return not (self.above and value == self.low) and not (
            self.below and value == self.high
        )

    def __str__(self) -> str:
        if self.below:
            return f"a number from {self.low:g} to less than {self.high:g}"
        begin = "above" if self.above else "from"
        return f"a number {begin} {self.low:g} and up to {self.high:g}"


@dataclasses.dataclass(frozen=True)
class Span:
    """Two finite numbers from `low` to `high`, the smaller one first."""

    low: float
    high: float

    def accepts(self, value: Any) -> bool:
        number = Real(self.low, self.high)
        pair = isinstance(value, tuple | list) and len(value) == 2
        return pair and all(map(number.accepts, value)) and value[0] <= value[1]

    def __str__(self) -> str:
        return (
            f"two numbers from {self.low:g} to {self.high:g}, the smaller first, for "
            "instance (0.5,2.0)"
        )


@dataclasses.dataclass(frozen=True)
class Text:
    """A printable text of one line that matches `pattern`; `words` describes it."""

    pattern: str = r".{0,4096}"
    words: str = "a text of one line"

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, str) or not value.isprintable():
            return False
        return re.fullmatch(self.pattern, value, re.ASCII) is not None

    def __str__(self) -> str:
        return self.words


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    def accepts(self, value: Any) -> bool:
        return type(value) is bool

    def __str__(self) -> str:
        return "true or false"


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few texts."""

    values: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(value) for value in self.values)


@dataclasses.dataclass(frozen=True)
class Name:
    """One of the names that `names` returns when a value is checked."""

    names: Callable[[], Iterable[str]]

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names()

    def __str__(self) -> str:
        return str(Choice(tuple(self.names())))


@dataclasses.dataclass(frozen=True)
class Option:
    """One field: its default, the values that it takes, and what it does."""

    default: Any
    range: Range
    sentence: str


def option(default: T, range: Range, sentence: str) -> T:
    """Declares a dataclass field; `sentence` says what it does and in which unit."""
    described = {"option": Option(default, range, sentence)}
    return dataclasses.field(default=default, metadata=described)


def list_options(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Option]]:
    """Yields (dotted name, Option) of each field of a dataclass, sections at the end."""
    fields = dataclasses.fields(cls)
    for field in fields:
        if "option" in field.metadata:
            yield prefix + field.name, field.metadata["option"]
    for field in fields:
        if "option" not in field.metadata and isinstance(field.type, type):
            yield from list_options(field.type, f"{prefix}{field.name}.")


def from_config(cls: type[T], config: ConfigDict | Mapping[str, Any]) -> T:
    """Returns the options that a recipe holds, after checking them.

    Args:
      cls: dataclass of the options, or of dataclasses of them.
      config: its fields, as a tree like that of `cls`.

    Raises:
      ValueError: a field is missing, unknown or out of its range.
    """
    values, options = fields_of(config), dict(list_options(cls))
    missing = [name for name in options if name not in values]
    problems = [f"config.{name} is missing" for name in missing]
    for name, value in values.items():
        if name not in options:
            problems.append(f"config.{name} has no range: {cls.__name__} lacks it")
        elif not options[name].range.accepts(value):
            shown = repr(value)
            if len(shown) > 200:
                shown = f"{shown[:200]} …"
            problems.append(
                f"config.{name} = {shown}: it must be {options[name].range}"
            )
    if problems:
        more = len(problems) - _MAX_LISTED
        rest = f"\n… and {more} more" if more > 0 else ""
        raise ValueError("\n".join(problems[:_MAX_LISTED]) + rest)
    return _build(cls, config)


def _build(cls: type[Any], tree: ConfigDict | Mapping[str, Any]) -> Any:
    values = {}
    for field in dataclasses.fields(cls):
        value: Any = tree[field.name]
        if "option" not in field.metadata and isinstance(field.type, type):
            value = _build(field.type, value)
        elif isinstance(field.default, tuple):
            value = tuple(map(float, value))
        elif isinstance(field.default, float):
            value = float(value)
        values[field.name] = value
    return cls(**values)


def fields_of(tree: ConfigDict | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a tree of mappings by their dotted names."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, ConfigDict | Mapping):
            flat |= fields_of(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def format_options(cls: type[Any]) -> str:
    """Returns all fields with sentence, range and default, laid out as absl's --help."""
    lines = []
    for name, field in list_options(cls):
        facts = f"({field.range}; default: {field.default!r})"
        lines += textwrap.wrap(
            f"--config.{name}: {field.sentence}",
            width=88,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        lines += textwrap.wrap(
            facts, width=88, initial_indent="    ", subsequent_indent="    "
        )
    return "\n".join(lines)

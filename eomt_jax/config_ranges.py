"""Checks the range of every field of a recipe, before anything is read or compiled.

A field without a range here is an error, so that a new field cannot be forgotten. Rules
about several fields, or about a field and the data, are checked where these are used.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from eomt_jax.models import registry, variants
from eomt_jax.task_registry import task_names

# Schedules are computed in float32, which counts exactly up to here.
_MAX_STEPS = 2**24
# A message lists at most so many problems.
_MAX_LISTED = 8


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
class Variant:
    """The name of a network's size, looked up when it is checked."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in variants.VARIANTS

    def __str__(self) -> str:
        return f"one of {', '.join(variants.VARIANTS)}"


@dataclasses.dataclass(frozen=True)
class NetworkName:
    """The name of a kind of network, looked up when it is checked."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value in registry.names()

    def __str__(self) -> str:
        return f"one of {', '.join(registry.names())}"


@dataclasses.dataclass(frozen=True)
class TaskName:
    """The name of a task, looked up when it is checked, or "" for the data set's own."""

    def accepts(self, value: Any) -> bool:
        return Choice(("", *task_names())).accepts(value)

    def __str__(self) -> str:
        return str(Choice(("", *task_names())))


_EVERY_STEPS = Whole(0, _MAX_STEPS)
_WEIGHT = Real(0.0, 1e6, above=True)
_POWER = Real(0.0, 100.0, above=True)
_SPLIT = Text(
    r"[\w.+:%\[\]-]{1,200}", "the name of a split, for instance train or train[:8]"
)
_DEVICES = Whole(1, 2**20)

RANGES = {
    "seed": Whole(0, 2**32 - 1),
    "image_size": Whole(1, 16_384),
    "batch_size": Whole(1, 2**20),
    "accumulation": Whole(1, 2**20),
    "total_steps": Whole(0, _MAX_STEPS),
    "epochs": Whole(0, 10**6),
    "compilation_cache": Text(),
    "dataset.name": Text(
        r"[A-Za-z]\w{0,199}",
        "a name of letters, digits and _ that begins with a letter",
    ),
    "dataset.data_dir": Text(r".{1,4096}", "a path"),
    "dataset.train_split": _SPLIT,
    "dataset.eval_split": _SPLIT,
    "dataset.on_damaged": Choice(("stop", "replace")),
    "dataset.num_threads": Whole(0, 1024),
    "dataset.num_workers": Whole(0, 1024),
    "dataset.max_targets": Whole(0, 65_536),
    "augmentation.scale_range": Span(0.01, 100.0),
    "augmentation.color_jitter": Flag(),
    "model.name": NetworkName(),
    "model.variant": Variant(),
    "model.patch_size": Whole(1, 256),
    "model.num_queries": Whole(1, 65_536),
    "model.num_masked_layers": Whole(0, 1000),
    "model.dtype": Choice(("bfloat16", "float16", "float32")),
    "model.remat": Flag(),
    "init.backbone": Text(),
    "init.checkpoint": Text(),
    "init.from_scratch": Flag(),
    "init.class_head": Choice(("auto", "keep", "new", "by_name")),
    "optimizer.learning_rate": Real(0.0, 1.0, above=True),
    "optimizer.weight_decay": Real(0.0, 100.0),
    "optimizer.layer_decay": Real(0.0, 1.0, above=True),
    "optimizer.undecayed_blocks": Whole(0, 1000),
    "optimizer.clip_norm": Real(0.0, 1e9, above=True),
    "optimizer.beta1": Real(0.0, 1.0, below=True),
    "optimizer.beta2": Real(0.0, 1.0, below=True),
    "optimizer.eps": Real(0.0, 1.0, above=True),
    "optimizer.moments_dtype": Choice(("float32", "bfloat16")),
    "optimizer.warmup_head": Whole(0, _MAX_STEPS),
    "optimizer.warmup_vit": Whole(0, _MAX_STEPS),
    "optimizer.power": _POWER,
    "optimizer.published_steps": Whole(0, _MAX_STEPS),
    "optimizer.frozen_blocks": Whole(-1, 1000),
    "annealing.enabled": Flag(),
    "annealing.power": _POWER,
    "annealing.length": Real(0.0, 100.0, above=True),
    "annealing.first_block_end": Whole(0, _MAX_STEPS),
    "criterion.num_points": Whole(1, 2**20),
    "criterion.oversample_ratio": Real(1.0, 1000.0),
    "criterion.importance_ratio": Real(0.0, 1.0),
    "criterion.mask_weight": _WEIGHT,
    "criterion.dice_weight": _WEIGHT,
    "criterion.class_weight": _WEIGHT,
    "criterion.no_object_weight": _WEIGHT,
    "criterion.matcher": Choice(("scipy", "device")),
    "criterion.ignore_void": Flag(),
    "mesh.data": Whole(1, 2**20, special=-1),
    "mesh.fsdp": _DEVICES,
    "mesh.tensor": _DEVICES,
    "checkpoint.every_steps": _EVERY_STEPS,
    "checkpoint.every_minutes": Whole(0, 10**6),
    "checkpoint.keep": Whole(1, 10**6),
    "checkpoint.keep_best": Whole(0, 10**6),
    "eval.every_steps": _EVERY_STEPS,
    "eval.patience": Whole(0, 10**6),
    "eval.batch_size": Whole(1, 2**20),
    "eval.num_images": Whole(0, 2**31),
    "eval.task": TaskName(),
    "eval.skip_padding": Flag(),
    "logging.every_steps": _EVERY_STEPS,
    "logging.picture_every_steps": _EVERY_STEPS,
    "logging.num_pictures": Whole(0, 1000),
}


def check_config(config: Any) -> None:
    """Raises ValueError unless every field of a recipe is in its range.

    Args:
      config: a ConfigDict as configs/common.py lists it.
    """
    values = fields_of(config.to_dict())
    missing = [name for name in RANGES if name not in values]
    problems = [f"config.{name} is missing" for name in missing]
    for name, value in values.items():
        if name not in RANGES:
            problems.append(f"config.{name} has no range in {__name__}")
        elif not RANGES[name].accepts(value):
            shown = repr(value)
            if len(shown) > 200:
                shown = f"{shown[:200]} …"
            problems.append(f"config.{name} = {shown}: it must be {RANGES[name]}")
    if problems:
        more = len(problems) - _MAX_LISTED
        rest = f"\n… and {more} more" if more > 0 else ""
        raise ValueError("\n".join(problems[:_MAX_LISTED]) + rest)


def fields_of(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a tree of mappings by their dotted names."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= fields_of(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat

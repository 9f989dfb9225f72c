"""Checks the types and ranges of a network's fields in model.json.

Flax itself takes values of any type, and fields of its own, such as `name` and
`parent`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from eomt_jax.models.attention import QKV_BIASES
from eomt_jax.models.registry import class_names, network_class
from eomt_jax.models.vit import POSITIONS, ViT
from eomt_jax.weights.ranges import LARGEST, check_number

_ALWAYS = ("image_size", "patch_size")  # which their defaults would make others
# Networks used to store whether they ran on a CPU, which programs now find out.
_FORMER = {"on_cpu": bool}
_CHOICES = {
    "dtype": ("float32", "bfloat16", "float16"),
    "mlp_type": ("gelu", "swiglu"),
    "positions": POSITIONS,
    "qkv_bias": tuple(QKV_BIASES),
}
_MAX_COUNT = 1 << 20
_PLAIN = (bool, int, float, str)


def module_class(source: str, kind: Any) -> type[nn.Module]:
    """Returns the class of a network or of a backbone by its name.

    Raises:
      ValueError: there is none.
    """
    found = ViT if kind == "ViT" else network_class(kind)
    if found is None:
        raise ValueError(
            f"{source} describes no network: kind = {kind!r:.80}; there are "
            f"{', '.join((*class_names(), 'ViT'))}. Call eomt_jax.models.registry.register "
            "first for a network of your own."
        )
    return found


def check_fields(source: str, kind: Any, fields: Any) -> None:
    """Raises ValueError unless the fields are those of a network.

    Args:
      source: the file, for messages.
      kind: the name of the module's class, "EoMT" or "ViT" for instance.
      fields: the module's fields as JSON values; a module within is a dict of its own.
    """
    _check_module(source, module_class(source, kind), fields)


def build_module(
    kind: type[nn.Module], fields: Mapping[str, Any], **built: nn.Module
) -> Any:
    """Builds a module from its fields as JSON values, and from modules within it."""
    types = _field_types(kind)

    def value_of(name: str, value: Any) -> Any:
        if _is_module(types.get(name)):
            return build_module(types[name], value)
        if name == "dtype":
            return jnp.dtype(value)
        return tuple(value) if isinstance(value, list) else value

    values = {name: value_of(name, value) for name, value in fields.items()}
    return kind(**values, **built)


def stored_fields(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns checked fields without those that are no longer stored."""
    return _stored(module_class("", kind), fields)


def is_execution(field: dataclasses.Field[Any]) -> bool:
    """Returns whether a field says how a network computes, and not what it is.

    Such a field isn't stored: whoever opens the network chooses it.
    """
    is_optional = field.default is not dataclasses.MISSING
    return is_optional and field.name in ("dtype", "remat")


def _stored(kind: type[nn.Module], fields: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {f.name: f for f in dataclasses.fields(kind)}
    return {
        name: _stored(kept[name].type, value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if name in kept and not is_execution(kept[name])
    }


def _check_module(source: str, kind: type[nn.Module], fields: Any) -> None:
    if not isinstance(fields, dict):
        what = (
            f"{source} has {fields!r:.80} where the fields of its {kind.__name__} are."
        )
        raise ValueError(what)  # noqa: TRY004
    known = _field_types(kind)
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING or field.name in _ALWAYS
    }
    if kind is ViT:
        known |= _FORMER
    unknown = sorted(fields.keys() - known.keys())
    missing = [name for name in known if name in required and name not in fields]
    if unknown or missing:
        what = f"unknown {unknown[0]!r:.80}" if unknown else f"missing {missing[0]}"
        raise ValueError(
            f"{source}: the fields of its {kind.__name__} are not those of this "
            f"eomt_jax: {what}."
        )
    for name, value in fields.items():
        _check_field(source, name, value, known[name])


def _field_types(kind: type[nn.Module]) -> dict[str, Any]:
    return {
        field.name: field.type
        for field in dataclasses.fields(kind)
        if field.name not in ("name", "parent")
    }


def _is_module(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, nn.Module)


def _check_field(source: str, name: str, value: Any, wanted: Any) -> None:
    if _is_module(wanted):
        _check_module(source, wanted, value)
        return
    if name in LARGEST:
        check_number(source, name, value)
        return
    if name in _CHOICES:
        choices = _CHOICES[name]
        good, words = value in choices, f"one of {', '.join(choices)}"
    elif name == "image_size":
        sides = value if isinstance(value, list) else []
        good = len(sides) == 2 and all(_is_count(side, 1) for side in sides)
        words = "[height, width] in pixels"
    elif wanted is int:
        low = 0 if name == "num_register_tokens" else 1
        good = _is_count(value, low)
        words = f"a whole number of {low} to {_MAX_COUNT:,}"
    elif isinstance(wanted, type):
        good, words = type(value) is wanted, f"of type {wanted.__name__}"
    else:  # a list where the module has a tuple
        good = isinstance(value, list) and all(type(v) in _PLAIN for v in value)
        words = "a list of numbers or texts"
    if not good:
        raise ValueError(f"{source}: {name} = {value!r:.80}; wanted {words}.")


def _is_count(value: Any, low: int) -> bool:
    return type(value) is int and low <= value <= _MAX_COUNT

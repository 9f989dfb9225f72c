"""The fields of a network in model.json: each has its type and its range.

Flax takes fields of any type, and some that are its own, such as `name` and `parent`.
"""

import dataclasses
from typing import Any

from flax import linen as nn

from eomt_jax.models.attention import QKV_BIASES
from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import POSITIONS, ViT
from eomt_jax.weights.architecture import LARGEST, check_number

_KINDS: dict[str, type[nn.Module]] = {"EoMT": EoMT, "ViT": ViT}
_ALWAYS = ("image_size", "patch_size")  # which their defaults would make others
# Networks once stored whether they ran on a CPU, which programs now find out.
_FORMER = {"on_cpu": bool}
_CHOICES = {
    "dtype": ("float32", "bfloat16", "float16"),
    "mlp_type": ("gelu", "swiglu"),
    "positions": POSITIONS,
    "qkv_bias": tuple(QKV_BIASES),
}
_MAX_COUNT = 1 << 20


def check_fields(source: str, kind: Any, fields: Any) -> None:
    """Raises ValueError unless the fields are those of a network.

    Args:
      source: the file, for messages.
      kind: the module's class, "EoMT" or "ViT".
      fields: of the module as JSON has them, those of a module within as a dict.
    """
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(
            f"{source} describes no network: kind = {kind!r:.80}; there are "
            f"{', '.join(_KINDS)}."
        )
    if not isinstance(fields, dict):
        what = f"{source} has {fields!r:.80} where the fields of its {kind} are."
        raise ValueError(what)  # noqa: TRY004
    known = {
        field.name: field.type
        for field in dataclasses.fields(_KINDS[kind])
        if field.name not in ("name", "parent")
    }
    required = {
        field.name
        for field in dataclasses.fields(_KINDS[kind])
        if field.default is dataclasses.MISSING or field.name in _ALWAYS
    }
    if kind == "ViT":
        known |= _FORMER
    unknown = sorted(fields.keys() - known.keys())
    missing = [name for name in known if name in required and name not in fields]
    if unknown or missing:
        what = f"unknown {unknown[0]!r:.80}" if unknown else f"missing {missing[0]}"
        raise ValueError(
            f"{source}: the fields of its {kind} are not those of this eomt_jax: {what}."
        )
    for name, value in fields.items():
        _check_field(source, name, value, known[name])


def without_former(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields without those that networks had once and have no more."""
    return {
        name: without_former(value) if name == "vit" else value
        for name, value in fields.items()
        if name not in _FORMER
    }


def _check_field(source: str, name: str, value: Any, wanted: Any) -> None:
    if name == "vit":
        check_fields(source, "ViT", value)
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
    else:
        good, words = type(value) is wanted, f"of type {wanted.__name__}"
    if not good:
        raise ValueError(f"{source}: {name} = {value!r:.80}; wanted {words}.")


def _is_count(value: Any, low: int) -> bool:
    return type(value) is int and low <= value <= _MAX_COUNT

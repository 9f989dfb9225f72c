"""Sizes of the published architectures, and of a small one that a laptop can train."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import ViT


@dataclasses.dataclass(frozen=True)
class Variant:
    """Architecture of one ViT, and how many of its blocks see the queries.

    LayerScale starts at timm's 1e-5 in the published ones, which is too small to train
    from scratch; networks that are trained from scratch start at 1.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_query_blocks: int
    mlp_type: str = "gelu"
    qkv_bias: str = "all"
    positions: str = "learned"
    layer_norm_eps: float = 1e-6
    layer_scale_init: float = 1e-5


def _dinov3(
    embed_dim: int,
    depth: int,
    num_heads: int,
    mlp_dim: int,
    num_query_blocks: int,
    mlp_type: str = "gelu",
    qkv_bias: str = "no_key",
) -> Variant:
    return Variant(
        embed_dim,
        depth,
        num_heads,
        mlp_dim,
        num_query_blocks,
        mlp_type=mlp_type,
        qkv_bias=qkv_bias,
        positions="rotary",
        layer_norm_eps=1e-5,
    )


# The fields that weights determine; the number of registers is taken from the weights.
_SETTLED_FIELDS = (
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_dim",
    "mlp_type",
    "qkv_bias",
    "positions",
)

VARIANTS = {
    "tiny": Variant(128, 6, 4, 512, 2, layer_scale_init=1.0),
    "small": Variant(384, 12, 6, 1536, 3),
    "base": Variant(768, 12, 12, 3072, 3),
    "large": Variant(1024, 24, 16, 4096, 4),
    "giant": Variant(1536, 40, 24, 4096, 5, "swiglu"),
    "dinov3_small": _dinov3(384, 12, 6, 1536, 3),
    "dinov3_base": _dinov3(768, 12, 12, 3072, 3),
    "dinov3_large": _dinov3(1024, 24, 16, 4096, 4),
    # The paper's authors trained no such network; it has giant's blocks with queries.
    "dinov3_huge": _dinov3(1280, 32, 20, 5120, 5, "swiglu"),
    "dinov3_7b": _dinov3(4096, 40, 32, 8192, 5, "swiglu", "none"),
}


def get_variant(name: str) -> Variant:
    """Returns the named variant; ValueError lists the names."""
    if name not in VARIANTS:
        raise ValueError(f"Unknown variant {name!r}; there are {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def fitting_variants(fields: Mapping[str, Any]) -> list[str]:
    """Returns the variants that a ViT of these fields is of, except for registers."""
    return [
        name
        for name, sizes in VARIANTS.items()
        if all(getattr(sizes, field) == fields[field] for field in _SETTLED_FIELDS)
    ]


def check_variant(name: str, vit: ViT, source: str) -> None:
    """Raises ValueError unless a ViT has the sizes of a variant, except for registers.

    Args:
      name: a key of VARIANTS.
      vit: the stored ViT.
      source: its file, for the message.
    """
    found = {field: getattr(vit, field) for field in _SETTLED_FIELDS}
    wanted = {field: getattr(get_variant(name), field) for field in found}
    if found == wanted:
        return
    differing = ", ".join(
        f"{field} {found[field]!r} instead of {wanted[field]!r}"
        for field in found
        if found[field] != wanted[field]
    )
    fitting = fitting_variants(found)
    advice = f"set model.variant = {fitting[0]!r}" if fitting else "no variant fits it"
    raise ValueError(
        f"{source} is not of model.variant = {name!r}: it has {differing}; {advice}"
    )


def create_vit(variant: str, *, image_size: tuple[int, int], **overrides) -> ViT:
    """Creates a ViT of a named size.

    Args:
      variant: a key of VARIANTS.
      image_size: (height, width) in pixels.
      **overrides: any other field of ViT.
    """
    sizes = dataclasses.asdict(get_variant(variant))
    del sizes["num_query_blocks"]
    fields = {**sizes, "image_size": tuple(image_size), **overrides}
    fields["dtype"] = jnp.dtype(fields.get("dtype", "float32"))
    return ViT(**fields)


def create_eomt(
    variant: str,
    *,
    num_classes: int,
    num_queries: int,
    image_size: tuple[int, int],
    num_query_blocks: int = 0,
    **overrides,
) -> EoMT:
    """Creates an EoMT of a named size.

    Args:
      variant: a key of VARIANTS.
      num_classes: number of classes without "no object".
      num_queries: how many segments can be predicted.
      image_size: (height, width) in pixels.
      num_query_blocks: blocks with queries; 0 takes the variant's published number.
      **overrides: any other field of ViT.
    """
    return EoMT(
        vit=create_vit(variant, image_size=image_size, **overrides),
        num_classes=num_classes,
        num_queries=num_queries,
        num_query_blocks=num_query_blocks or get_variant(variant).num_query_blocks,
    )

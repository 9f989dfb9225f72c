"""The published sizes, and a small one that a laptop can train."""

import dataclasses

import jax.numpy as jnp

from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import ViT


@dataclasses.dataclass(frozen=True)
class Variant:
    """Sizes of one ViT, how many of its blocks see the queries, and LayerScale's start.

    The published sizes start at timm's 1e-5, which only pre-trained weights replace in
    time; what is trained from scratch starts at 1.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_query_blocks: int
    mlp_type: str = "gelu"
    layer_scale_init: float = 1e-5


VARIANTS = {
    "tiny": Variant(128, 6, 4, 512, 2, layer_scale_init=1.0),
    "small": Variant(384, 12, 6, 1536, 3),
    "base": Variant(768, 12, 12, 3072, 3),
    "large": Variant(1024, 24, 16, 4096, 4),
    "giant": Variant(1536, 40, 24, 4096, 5, "swiglu"),
}


def get_variant(name: str) -> Variant:
    """The named variant; ValueError lists the names there are."""
    if name not in VARIANTS:
        raise ValueError(f"Unknown variant {name!r}; there are {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def create_vit(variant: str, *, image_size: tuple[int, int], **overrides) -> ViT:
    """A ViT of a named size.

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
    num_query_blocks: int | None = None,
    **overrides,
) -> EoMT:
    """An EoMT of a named size.

    Args:
      variant: a key of VARIANTS.
      num_classes: without "no object".
      num_queries: how many segments can be predicted.
      image_size: (height, width) in pixels.
      num_query_blocks: the published number of the variant unless given.
      **overrides: any other field of ViT.
    """
    return EoMT(
        vit=create_vit(variant, image_size=image_size, **overrides),
        num_classes=num_classes,
        num_queries=num_queries,
        num_query_blocks=num_query_blocks or get_variant(variant).num_query_blocks,
    )

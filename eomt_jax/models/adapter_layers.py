"""Layers of ViT-Adapter, by which patches and convolutional maps read from each other.

Legend: B batch, P patches, S pixels of all maps, D embedding, h w a map's rows and
columns.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eomt_jax.models.functions import gelu
from eomt_jax.models.layers import Dense, LayerNorm
from eomt_jax.models.mask2former.deformable_attention import (
    DEFORMABLE_ATTENTION_RULES,
    DeformableAttention,
    pixel_centers,
)
from eomt_jax.models.scale_blocks import DepthwiseConv3x3
from eomt_jax.parallel.partition import Rules, split_rows

Dtype = Any
Sizes = tuple[tuple[int, int], ...]

LAYER_RULES: Rules = (
    *DEFORMABLE_ATTENTION_RULES,
    (r"conv_mlp/up/kernel", ("fsdp", "tensor")),
    (r"conv_mlp/depthwise/kernel", (None, None, "tensor")),
    (r"conv_mlp/(up|depthwise)/bias", ("tensor",)),
    (r"conv_mlp/down/kernel", ("tensor", "fsdp")),
    (r"conv_mlp/down/bias", (None,)),
    (r"(query|feature|mlp)_norm/(scale|bias)", (None,)),
    (r"gamma", (None,)),
)


class Injector(nn.Module):
    """Adds to the patches what they read from the maps, times γ, which starts at 0.

    Attributes:
      attention: creates the attention.
      grid_size: (h, w) of the patches.
      sizes: (h, w) of each map.
      dtype: type of activations.
    """

    attention: Callable[[], DeformableAttention]
    grid_size: tuple[int, int]
    sizes: Sizes
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, patches: Float[Array, "B P D"], context: Float[Array, "B S D"]
    ) -> Float[Array, "B P D"]:
        gamma = self.param("gamma", nn.initializers.zeros, (patches.shape[-1],))
        out = self.attention()(
            LayerNorm(dtype=self.dtype, name="query_norm")(split_rows(patches)),
            LayerNorm(dtype=self.dtype, name="feature_norm")(split_rows(context)),
            reference_points=pixel_centers(self.grid_size),
            level_sizes=self.sizes,
        )
        return patches + jnp.asarray(gamma, self.dtype) * out


class Extractor(nn.Module):
    """Adds to the maps what they read from the patches, and then a feed-forward's.

    Attributes:
      attention, grid_size, sizes, dtype: see Injector.
      mlp_dim: hidden width of the feed-forward.
    """

    attention: Callable[[], DeformableAttention]
    grid_size: tuple[int, int]
    sizes: Sizes
    mlp_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, context: Float[Array, "B S D"], patches: Float[Array, "B P D"]
    ) -> Float[Array, "B S D"]:
        context = context + self.attention()(
            LayerNorm(dtype=self.dtype, name="query_norm")(split_rows(context)),
            LayerNorm(dtype=self.dtype, name="feature_norm")(split_rows(patches)),
            reference_points=jnp.concatenate([pixel_centers(s) for s in self.sizes]),
            level_sizes=(self.grid_size,),
        )
        mlp = ConvMlp(self.mlp_dim, self.sizes, self.dtype, name="conv_mlp")
        return context + mlp(LayerNorm(dtype=self.dtype, name="mlp_norm")(context))


class ConvMlp(nn.Module):
    """Linear, depthwise 3×3 on each map, exact GELU and Linear."""

    hidden_dim: int
    sizes: Sizes
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        batch, _, dim = x.shape
        x = Dense(self.hidden_dim, dtype=self.dtype, name="up")(x)
        depthwise = DepthwiseConv3x3(
            use_bias=True,
            kernel_init=nn.initializers.normal(math.sqrt(2 / 9)),
            dtype=self.dtype,
            name="depthwise",
        )
        maps = [depthwise(level) for level in split_levels(x, self.sizes)]
        x = jnp.concatenate([m.reshape(batch, -1, self.hidden_dim) for m in maps], 1)
        return Dense(dim, dtype=self.dtype, name="down")(gelu(x))


def split_levels(
    context: Float[Array, "B S D"], sizes: Sizes
) -> list[Float[Array, "B h w D"]]:
    """Returns the maps whose pixels, row by row, follow one another in `context`."""
    batch, _, dim = context.shape
    ends = np.cumsum([math.prod(size) for size in sizes])[:-1]
    parts = jnp.split(context, ends, axis=1)
    return [x.reshape(batch, *size, dim) for x, size in zip(parts, sizes, strict=True)]

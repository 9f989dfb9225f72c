"""Multi-scale deformable attention: a query reads a few points of each map.

It is that of Deformable DETR (arXiv 2010.04159), as Mask2Former's pixel decoder and
ViT-Adapter use it.

Legend: B batch, Q queries, S pixels of all levels, s pixels of one level, D embedding,
heads, d channels of a head, L levels, P points.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eomt_jax.models.layers import Dense
from eomt_jax.models.mask2former.sampling import sample_maps
from eomt_jax.parallel.partition import Rules
from eomt_jax.parallel.platform import current_platform

Dtype = Any
Sizes = Sequence[tuple[int, int]]

# For a module called "deformable". The features of `offsets` and `weights` are those of
# the first head, then of the second. Their kernels are not split over fsdp, since what
# is split is cast to the type of activations before it is sent.
DEFORMABLE_ATTENTION_RULES: Rules = (
    (r"deformable/(offsets|weights)/kernel", (None, "tensor")),
    (r"deformable/value/kernel", ("fsdp", "tensor")),
    (r"deformable/(offsets|weights|value)/bias", ("tensor",)),
    (r"deformable/out/kernel", ("tensor", "fsdp")),
    (r"deformable/out/bias", (None,)),
)


class DeformableAttention(nn.Module):
    """Attention of queries to sampled points of several maps.

    Attributes:
      num_heads: heads; they share the value's channels.
      num_points: P, the points that each head reads on each level.
      value_ratio: width of the values, relative to that of the features.
      dtype: type of values and result. Points and their weights are computed in
        float32, since bfloat16 cannot place a point on 80 pixels.
    """

    num_heads: int
    num_points: int = 4
    value_ratio: float = 1.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "B Q D"],
        features: Float[Array, "B S D"],
        *,
        reference_points: Float[Array, "Q 2"],
        level_sizes: Sizes,
    ) -> Float[Array, "B Q D"]:
        """Returns the new values of the queries, before any residual.

        Args:
          query: what chooses the points and their weights.
          features: the maps, flattened row by row, one after another.
          reference_points: (x, y) in [0, 1] of each query, from which offsets count.
          level_sizes: (h, w) of each map.
        """
        batch, num_queries, dim = query.shape
        points = (self.num_heads, len(level_sizes), self.num_points)
        value_dim = int(dim * self.value_ratio)
        values = Dense(value_dim, kernel_init=_xavier, dtype=self.dtype, name="value")(
            features
        )
        offsets = Dense(
            2 * math.prod(points),
            kernel_init=nn.initializers.zeros,
            bias_init=_star(*points),
            name="offsets",
        )(query)
        logits = Dense(
            math.prod(points), kernel_init=nn.initializers.zeros, name="weights"
        )(query)
        widths = jnp.asarray(level_sizes, jnp.float32)[:, None, ::-1]
        locations = (
            reference_points[:, None, None, None]
            + offsets.reshape(batch, num_queries, *points, 2) / widths
        )
        weights = jax.nn.softmax(
            logits.reshape(batch, num_queries, self.num_heads, -1)
        ).reshape(batch, num_queries, *points)
        out = deformable_attention(
            values.reshape(batch, -1, self.num_heads, value_dim // self.num_heads),
            locations,
            weights,
            level_sizes,
        ).reshape(batch, num_queries, value_dim)
        return Dense(dim, kernel_init=_xavier, dtype=self.dtype, name="out")(out)


_xavier = nn.initializers.xavier_uniform()


def _star(num_heads: int, num_levels: int, num_points: int) -> Any:
    """Returns the initializer of the offsets' bias.

    Each head looks in a direction of its own; its points lie 1, 2, … pixels away, by
    the larger coordinate.
    """
    angles = np.arange(num_heads) * (2 * math.pi / num_heads)
    directions = np.stack([np.cos(angles), np.sin(angles)], -1)
    directions /= np.abs(directions).max(-1, keepdims=True)
    steps = np.arange(1, num_points + 1)[:, None]
    points = directions[:, None, None] * steps
    points = np.broadcast_to(points, (num_heads, num_levels, num_points, 2))

    def init(rng, shape, dtype=jnp.float32):
        del rng
        return jnp.asarray(points, dtype).reshape(shape)

    return init


def pixel_centers(size: tuple[int, int]) -> Float[Array, "s 2"]:
    """Returns the centres (x, y) of a map's pixels in [0, 1], row by row.

    Args:
      size: (h, w).
    """
    y, x = ((np.arange(length) + 0.5) / length for length in size)
    x, y = np.meshgrid(x, y)
    return jnp.asarray(np.stack([x, y], -1).reshape(-1, 2), jnp.float32)


def deformable_attention(
    values: Float[Array, "B S heads d"],
    locations: Float[Array, "B Q heads L P 2"],
    weights: Float[Array, "B Q heads L P"],
    level_sizes: Sizes,
) -> Float[Array, "B Q heads d"]:
    """Returns each query's weighted sum of the maps at its points.

    Maps are read by bilinear interpolation with half-pixel centres, and are 0 outside.

    Args:
      values: the maps, flattened row by row, one after another.
      locations: (x, y) in [0, 1] over the whole map, in float32.
      weights: factor of each point, in float32.
      level_sizes: (h, w) of each map.
    """
    points = jnp.moveaxis(locations[..., ::-1], 2, 1)
    weights = jnp.moveaxis(weights, 2, 1)
    # A head's channels lie next to each other, in rows.
    rows = values.swapaxes(1, 2)
    sizes = tuple((height, width) for height, width in level_sizes)
    platform = current_platform().name
    out: Any = sample_maps(rows, points, weights, sizes, platform)
    return out.swapaxes(1, 2).astype(values.dtype)

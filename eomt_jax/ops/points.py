"""Samples maps at points between their pixels, by bilinear interpolation.

Points are (y, x) in [0, 1] over the whole map, with half-pixel centres; the map is 0
outside. Mask2Former's loss samples so too, by PyTorch's `grid_sample` with
align_corners=False and zero padding.

Legend: N maps, P points, H W pixels.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Options of a gather at the indices that `neighbours` returns: they are never out of
# bounds or negative, so nothing has to be checked.
IN_BOUNDS: Any = {"mode": "promise_in_bounds", "wrap_negative_indices": False}


def neighbours(
    points: Float[Array, "*shape 2"], size: tuple[int, int]
) -> tuple[Int[Array, "*shape 4"], Float[Array, "*shape 4"]]:
    """Returns the four pixels around each point and their weights.

    Args:
      points: (y, x) in [0, 1].
      size: (H, W) of the map.

    Returns:
      Flat indices into H·W, always within the map, and bilinear weights, 0 for
      neighbours that lie outside.
    """
    height, width = size
    y = points[..., 0] * height - 0.5
    x = points[..., 1] * width - 0.5
    y0, x0 = jnp.floor(y), jnp.floor(x)
    wy, wx = y - y0, x - x0
    y0, x0 = y0.astype(jnp.int32), x0.astype(jnp.int32)

    def inside(index, length) -> Bool[Array, "..."]:
        return (index >= 0) & (index < length)

    indices, weights = [], []
    for dy, weight_y in ((0, 1 - wy), (1, wy)):
        for dx, weight_x in ((0, 1 - wx), (1, wx)):
            row, column = y0 + dy, x0 + dx
            weight = weight_y * weight_x
            weights.append(
                jnp.where(inside(row, height) & inside(column, width), weight, 0)
            )
            row = jnp.clip(row, 0, height - 1)
            indices.append(row * width + jnp.clip(column, 0, width - 1))
    return jnp.stack(indices, -1), jnp.stack(weights, -1)


def sample_shared(
    maps: Float[Array, "N H W"], points: Float[Array, "P 2"]
) -> Float[Array, "P N"]:
    """Samples all maps at the same points; gathers whole rows of N values."""
    num_maps, height, width = maps.shape
    rows = maps.reshape(num_maps, height * width).T
    indices, weights = neighbours(points, (height, width))
    values = jnp.zeros((len(points), num_maps), maps.dtype)
    for k in range(4):
        neighbour = rows.at[indices[:, k]].get(**IN_BOUNDS)
        values += neighbour * weights[:, k, None]
    return values


def sample_each(
    maps: Float[Array, "N H W"], points: Float[Array, "N P 2"]
) -> Float[Array, "N P"]:
    """Samples each map at its own points."""
    num_maps, height, width = maps.shape
    # The maps are flattened so that an index is one number and not two.
    flat = maps.reshape(-1)
    first = jnp.arange(num_maps)[:, None] * (height * width)
    indices, weights = neighbours(points, (height, width))
    values = jnp.zeros(points.shape[:-1], maps.dtype)
    for k in range(4):
        place = first + indices[..., k]
        neighbour = flat.at[place].get(**IN_BOUNDS)
        values += neighbour * weights[..., k]
    return values

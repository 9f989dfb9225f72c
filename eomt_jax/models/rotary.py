"""Rotary positions of patches on the two axes of an image, as in DINOv3.

A patch's row and column rotate pairs of each head's channels by angles that are
products of coordinate and frequency, so that attention between two patches depends on
their relative position. Source: DINOv3, arXiv 2508.10104; RoPE, arXiv 2104.09864.

Legend: B batch, R tokens, heads, Dh channels of a head, h w patch grid, hw patches.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Rotation(NamedTuple):
    """Cosine and sine of every patch's angles, row by row, in float32."""

    cos: Float[Array, "hw Dh"]
    sin: Float[Array, "hw Dh"]


def patch_rotation(
    grid_size: tuple[int, int],
    *,
    head_dim: int,
    theta: float,
    scale: Float[Array, ""] | float = 1.0,
    part: tuple[int, int] | None = None,
) -> Rotation:
    """Returns the rotation of each patch of a grid.

    Coordinates are the patches' centres, (y, x) from -1 to 1 over the image, whatever
    its size. Each of the Dh / 4 frequencies 1 / theta^(4 i / Dh) rotates two pairs of
    channels, one by y and one by x; the channels of a pair are Dh / 2 apart.

    Args:
      grid_size: (h, w).
      head_dim: Dh, a multiple of 4.
      theta: base of the frequencies' periods.
      scale: factor on all coordinates; training draws it.
      part: (rows, columns) of the grid's top left part whose rotations are returned; by
        default all of the grid.
    """
    y, x = (
        (jnp.arange(count) + 0.5) / size * 2 - 1
        for count, size in zip(part or grid_size, grid_size)
    )
    coordinates = jnp.stack(jnp.meshgrid(y, x, indexing="ij"), axis=-1) * scale
    frequencies = theta ** -jnp.arange(0, 1, 4 / head_dim, dtype=jnp.float32)
    angles = 2 * jnp.pi * coordinates.reshape(-1, 2, 1) * frequencies
    angles = jnp.tile(angles.reshape(-1, head_dim // 2), (1, 2))
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate_patches(
    x: Float[Array, "B R heads Dh"], rotation: Rotation, *, num_tokens: int
) -> Float[Array, "B R heads Dh"]:
    """Rotates the patches, which are the last hw of the first `num_tokens` tokens.

    Queries and prefix tokens before them don't change, nor does padding behind them. It
    computes in float32 and returns x's dtype.
    """
    num_others = num_tokens - len(rotation.cos)
    others, patches, padding = jnp.split(x, [num_others, num_tokens], axis=1)
    patches = patches.astype(jnp.float32)
    first, second = jnp.split(patches, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    cos, sin = (table[None, :, None] for table in rotation)
    patches = (patches * cos + turned * sin).astype(x.dtype)
    return jnp.concatenate([others, patches, padding], axis=1)

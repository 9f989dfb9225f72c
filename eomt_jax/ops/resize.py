"""Bilinear resizing as matrix products, for sizes known when a program is traced.

`postprocess.geometry.interpolation_positions` follows the same rule for sizes that are
known only at run time: both change together.

Legend: H W pixels before, h w after.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bilinear_matrix(in_size: int, out_size: int) -> np.ndarray:
    """Returns the float32 [out_size, in_size] of interpolation along one axis.

    Half-pixel centres, edges repeated, no antialiasing: PyTorch's `interpolate` with
    align_corners=False. (jax.image.resize antialiases when it shrinks.)
    """
    position = (np.arange(out_size) + 0.5) * in_size / out_size - 0.5
    position = np.clip(position, 0, in_size - 1)
    low = np.floor(position).astype(int)
    fraction = position - low
    matrix = np.zeros((out_size, in_size), np.float32)
    rows = np.arange(out_size)
    np.add.at(matrix, (rows, low), 1 - fraction)
    np.add.at(matrix, (rows, np.minimum(low + 1, in_size - 1)), fraction)
    return matrix


def bilinear_resize(
    x: Float[Array, "*batch H W"], size: tuple[int, int]
) -> Float[Array, "*batch h w"]:
    """Resizes the last two axes to `size` (height, width), without antialiasing."""
    height, width = x.shape[-2:]
    rows = jnp.asarray(bilinear_matrix(height, size[0]), x.dtype)
    columns = jnp.asarray(bilinear_matrix(width, size[1]), x.dtype)
    return jnp.einsum(
        "...HW,hH,wW->...hw", x, rows, columns, optimize=True, precision="highest"
    )

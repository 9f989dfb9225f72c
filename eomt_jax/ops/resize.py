"""Bilinear resizing, one axis at a time, for sizes known when traced or at run time.

Legend: H W pixels before, h w after; n output positions of one axis; B batch,
D channels.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from eomt_jax.types import Array

SCOPE = "bilinear_resize"
"""Name of the products of resizes in traced programs, which are no layers' own."""


def interpolation_positions(
    in_size: Int[Array, ""] | int, out_size: Int[Array, ""] | int, *, num_rows: int
) -> tuple[Int[Array, " n"], Int[Array, " n"], Float[Array, " n"]]:
    """Returns which pixels a bilinear resize of one axis mixes.

    Half-pixel centres, no antialiasing, clamped at the borders: PyTorch's interpolate
    with align_corners=False. Positions are divided in integers, so the weights are
    right within 1e-7, where jax.image.resize computes float32 positions and is off by
    4e-5 from 640 to 427 pixels.

    Args:
      in_size: pixels of the input.
      out_size: pixels of the output, 1 to num_rows; in_size · num_rows < 2³⁰.
      num_rows: n, positions in all; those past out_size repeat the border.

    Returns:
      The two input pixels that each output pixel mixes, and the share of the second;
      NumPy arrays where both sizes are numbers, so that a program holds constants.
    """
    xp = _namespace(in_size, out_size)
    position = (2 * xp.arange(num_rows) + 1) * in_size - out_size
    position = xp.clip(position, 0, 2 * out_size * (in_size - 1))
    lower = position // (2 * out_size)
    weight = (position % (2 * out_size)) / (2 * out_size)
    return lower, xp.minimum(lower + 1, in_size - 1), weight


def interpolation_matrix(
    in_size: Int[Array, ""] | int,
    out_size: Int[Array, ""] | int,
    *,
    num_rows: int,
    num_columns: int,
) -> Float[Array, "num_rows num_columns"]:
    """Returns interpolation_positions as a matrix; columns past in_size are 0."""
    lower, upper, weight = interpolation_positions(in_size, out_size, num_rows=num_rows)
    xp = _namespace(in_size, out_size)
    column = xp.arange(num_columns)
    return xp.where(column == lower[:, None], 1 - weight[:, None], 0.0) + xp.where(
        column == upper[:, None], weight[:, None], 0.0
    )


def _namespace(*sizes: Int[Array, ""] | int) -> Any:
    return np if all(isinstance(size, int) for size in sizes) else jnp


def bilinear_resize(
    x: Float[Array, "*batch H W"], size: tuple[int, int]
) -> Float[jax.Array, "*batch h w"]:
    """Resizes the last two axes to `size` (height, width), without antialiasing."""
    return _resize(x, x.shape[-2:], size, "...HW,hH,wW->...hw")


def bilinear_resize_maps(
    x: Float[Array, "B H W D"], size: tuple[int, int]
) -> Float[jax.Array, "B h w D"]:
    """Resizes maps to `size` (height, width), without antialiasing."""
    return _resize(x, x.shape[1:3], size, "BHWD,hH,wW->BhwD")


def _resize(
    x: Float[Array, "*shape"], old: Sequence[int], new: Sequence[int], axes: str
) -> Float[jax.Array, "*out"]:
    if tuple(old) == tuple(new):
        return jnp.asarray(x)
    rows, columns = (
        jnp.asarray(interpolation_matrix(n, m, num_rows=m, num_columns=n), x.dtype)
        for n, m in zip(old, new, strict=True)
    )
    with jax.named_scope(SCOPE):
        return jnp.einsum(axes, x, rows, columns, optimize=True, precision="highest")

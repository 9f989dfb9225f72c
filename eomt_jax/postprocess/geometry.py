"""The way back from the network's output to the photograph's own pixels.

The way in is pipeline.transforms: fit_image, cut_windows.

Legend: Q queries, h4 w4 the mask logits' size, S input size, Hc Wc canvas (the largest
photograph that one compiled function serves), R X rows and columns of a block of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from eomt_jax.ops.resize import interpolation_matrix
from eomt_jax.types import Array

BLOCK_SIZE = (64, 512)
"""Canvas pixels restored at a time: few enough for a CPU's cache at a few queries."""


class RestoreMatrices(NamedTuple):
    """The way of one image's mask logits back to its photograph, axis by axis.

    Attributes:
      rows: from the logits' height to the canvas's.
      columns: from the logits' width to the canvas's.
      original_size: (height, width) of the photograph, the canvas's part that counts.
    """

    rows: Float[Array, "Hc h4"]
    columns: Float[Array, "Wc w4"]
    original_size: Int[Array, " 2"]


def restore_matrices(
    content_size: Int[Array, " 2"],
    original_size: Int[Array, " 2"],
    *,
    logits_size: tuple[int, int],
    image_size: tuple[int, int],
    canvas_size: tuple[int, int],
) -> RestoreMatrices:
    """Returns the matrices that resize mask logits to the photograph's size.

    They resize to the input's size, cut the padding off, and resize again.
    Both resizes are bilinear and linear maps compose, so each axis is one small
    matrix. It is a value and not a shape: photographs of other sizes don't recompile.
    (Release: tue-mps/eomt@7bd19dd, revert_resize_and_pad_logits_instance_panoptic.)
    """

    def axis_matrix(axis: int) -> Float[Array, "canvas logits"]:
        to_input = interpolation_matrix(
            logits_size[axis],
            image_size[axis],
            num_rows=image_size[axis],
            num_columns=logits_size[axis],
        )
        to_original = interpolation_matrix(
            content_size[axis],
            original_size[axis],
            num_rows=canvas_size[axis],
            num_columns=image_size[axis],
        )
        return jnp.matmul(to_original, to_input, precision=jax.lax.Precision.HIGHEST)

    return RestoreMatrices(axis_matrix(0), axis_matrix(1), original_size)


def restore_masks(
    mask_logits: Float[Array, "Q h4 w4"], restore: RestoreMatrices
) -> Float[Array, "Q Hc Wc"]:
    """Returns one image's logits on the canvas.

    Pixels past its original size mean nothing. Few masks fit in memory like this: see
    fold_blocks.
    """
    return jnp.einsum(
        "Yh,qhw,Xw->qYX",
        restore.rows,
        mask_logits,
        restore.columns,
        precision=jax.lax.Precision.HIGHEST,
    )


class Block(NamedTuple):
    """Part of the canvas.

    Attributes:
      top: first row.
      left: first column, a multiple of 8.
      logits: of all masks, restored. Rows first: see fold_blocks.
      inside: where the block shows the photograph.
    """

    top: Int[Array, ""]
    left: Int[Array, ""]
    logits: Float[Array, "R Q X"]
    inside: Bool[Array, "R X"]


def block_grid(canvas_size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns (height, width) of a block, and of the canvas in whole blocks.

    Blocks are equal, at most BLOCK_SIZE, their width a multiple of 8.
    """
    counts = [-(-side // most) for side, most in zip(canvas_size, BLOCK_SIZE)]
    height, width = (-(-side // n) for side, n in zip(canvas_size, counts))
    width = -(-width // 8) * 8
    return (height, width), (counts[0] * height, counts[1] * width)


def fold_blocks(
    step: Callable[[Any, Block], Any],
    initial: Any,
    mask_logits: Float[Array, "Q h4 w4"],
    restore: RestoreMatrices,
) -> Any:
    """Restores masks block by block, so that they never exist at the canvas's size.

    At 200 queries and a canvas of 640 × 640 they would take 330 MB. Blocks past the
    photograph are left out: the time follows its size, not the
    canvas's. Columns are restored by a matrix product; rows, of which a canvas row
    mixes three at most, by picking, which is cheap where they lie in one piece.
    (Two CPU cores: 100 masks of 1200 × 1600 pixels in 0.7 s, by two products in 3 s.)

    Args:
      step: (value so far, block) → value.
      initial: the first value.
      mask_logits: of one image.
      restore: see RestoreMatrices.

    Returns:
      The last value.
    """
    canvas_size = len(restore.rows), len(restore.columns)
    (block_height, block_width), padded = block_grid(canvas_size)
    padding = [(0, new - old) for new, old in zip(padded, canvas_size)]
    rows, weights = _row_taps(jnp.pad(restore.rows, (padding[0], (0, 0))))
    columns = jnp.pad(restore.columns, (padding[1], (0, 0)))
    wide = jnp.einsum(
        "qhw,Xw->hqX", mask_logits, columns, precision=jax.lax.Precision.HIGHEST
    )
    height, width = restore.original_size
    num_rows, num_columns = -(-height // block_height), -(-width // block_width)

    def block_step(i: Array, value: Any) -> Any:
        top, left = i // num_columns * block_height, i % num_columns * block_width
        part = jax.lax.dynamic_slice_in_dim(wide, left, block_width, axis=2)
        y, x = top + jnp.arange(block_height), left + jnp.arange(block_width)
        logits = sum(
            weights[y, tap, None, None] * part[rows[y, tap]] for tap in range(3)
        )
        inside = (y[:, None] < height) & (x < width)
        return step(value, Block(top, left, jnp.asarray(logits), inside))

    return jax.lax.fori_loop(0, num_rows * num_columns, block_step, initial)


def _row_taps(
    matrix: Float[Array, "n m"],
) -> tuple[Int[Array, "n 3"], Float[Array, "n 3"]]:
    """Returns columns and values of each row's non-zero entries, at most three.

    An input pixel lies between two logits and its neighbour at most one logit further,
    so a pixel between those two mixes three.
    """
    first = jnp.argmax(matrix != 0, axis=1)
    taps = first[:, None] + jnp.arange(3)
    values = jnp.take_along_axis(matrix, taps, axis=1, mode="fill", fill_value=0.0)
    return jnp.minimum(taps, matrix.shape[1] - 1), values

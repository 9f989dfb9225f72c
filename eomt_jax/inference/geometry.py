"""The way back from the network's output to the photograph's own pixels.

The way in, fitting and padding, is pipeline.transforms.fit_image.

Legend: Q queries, h4 w4 the mask logits' size, S input size, Hc Wc canvas (the largest
photograph that one compiled function serves).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from eomt_jax.ops.resize import bilinear_matrix
from eomt_jax.types import Array


def interpolation_matrix(
    in_size: Int[Array, ""] | int,
    out_size: Int[Array, ""] | int,
    *,
    num_rows: int,
    num_columns: int,
) -> Float[Array, "num_rows num_columns"]:
    """Bilinear resize of one axis as a matrix, for sizes known only at run time.

    Half-pixel centres, no antialiasing, clamped at the borders: PyTorch's interpolate
    with align_corners=False. Positions are divided in integers, so the weights are
    right to the last bit where float32 positions near 640 carry an error of 3e-5.

    Args:
      in_size: pixels of the input that are used, 1 to num_columns.
      out_size: pixels of the output, 1 to num_rows; in_size · num_rows < 2³⁰.
      num_rows: rows of the matrix; those past out_size repeat the border.
      num_columns: columns of the matrix; those past in_size are 0.
    """
    in_size = jnp.asarray(in_size, jnp.int32)
    out_size = jnp.asarray(out_size, jnp.int32)
    position = (2 * jnp.arange(num_rows) + 1) * in_size - out_size
    position = jnp.clip(position, 0, 2 * out_size * (in_size - 1))
    lower = position // (2 * out_size)
    weight = (position % (2 * out_size)) / (2 * out_size)
    upper = jnp.minimum(lower + 1, in_size - 1)
    column = jnp.arange(num_columns)
    return jnp.where(column == lower[:, None], 1 - weight[:, None], 0.0) + jnp.where(
        column == upper[:, None], weight[:, None], 0.0
    )


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
    """Mask logits → input size → padding cut off → the photograph's size.

    Both resizes are bilinear and linear maps compose, so each axis is one small
    matrix. It is a value and not a shape: photographs of other sizes don't recompile.
    (Release: tue-mps/eomt@7bd19dd, revert_resize_and_pad_logits_instance_panoptic.)
    """

    def axis_matrix(axis: int) -> Float[Array, "canvas logits"]:
        to_input = bilinear_matrix(logits_size[axis], image_size[axis])
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
    """One image's logits on the canvas; pixels past its original size mean nothing.

    At 200 queries and 640 × 640 the result takes 330 MB; the panoptic post-processing
    restores strip by strip instead.
    """
    return jnp.einsum(
        "Yh,qhw,Xw->qYX",
        restore.rows,
        mask_logits,
        restore.columns,
        precision=jax.lax.Precision.HIGHEST,
    )

"""Depthwise 3×3 convolution by shifted multiply-adds, with a gradient of its own.

Legend: B batch, D channels, h w map, h2 w2 the map with its border.
"""

import functools
import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv3x3(
    x: Float[Array, "B h w D"], kernel: Float[Array, "3 3 D"], barriers: bool = False
) -> Float[Array, "B h w D"]:
    """Convolves each channel with a 3×3 kernel of its own; the padding is one zero.

    It is computed by nine shifted multiply-adds, which XLA fuses; XLA's grouped
    convolution is more than ten times slower on a CPU. The gradient has nine more;
    JAX's own would hold nine maps of x's size at a time.

    Args:
      x: the map.
      kernel: 3×3 weights for each channel.
      barriers: whether XLA must write the map to memory before and after the
        convolution. Without barriers it computes the input again for each tap on a GPU,
        such as a GELU nine times.
    """
    return _depthwise_forward(x, kernel, barriers)[0]


def _depthwise_forward(x, kernel, barriers):
    padded = _with_border(x, barriers)
    return _sum_taps(padded, kernel, barriers), (padded, kernel)


def _depthwise_backward(barriers, residuals, gradient):
    padded, kernel = residuals
    taps = jax.lax.platform_dependent(
        padded, gradient, cpu=_sum_by_row, default=_sum_products
    )
    kernel_gradient = taps.reshape(kernel.shape).astype(kernel.dtype)
    gradient = _with_border(gradient, barriers)
    return _sum_taps(gradient, kernel[::-1, ::-1], barriers), kernel_gradient


def _with_border(
    x: Float[Array, "B h w D"], barrier: bool
) -> Float[Array, "B h2 w2 D"]:
    """Returns `x` with a pixel of zeros around it, from which all nine maps are read.

    Without a barrier XLA would see that the map in the middle is `x`, and compute it
    again on a CPU.
    """
    return _unchanged(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), barrier)


def _unchanged(x: Float[Array, "*shape"], barrier: bool) -> Float[Array, "*shape"]:
    """Returns x; XLA does not optimise this identity away.

    A GPU's compiler needs a barrier, or fuses across it. On other platforms the
    identity is one that can be exported to other formats.
    """
    if barrier:
        return jax.lax.optimization_barrier(x)
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)


def _shifted(padded: Float[Array, "B h2 w2 D"]) -> Iterator[Float[Array, "B h w D"]]:
    """Yields the map that each tap of a 3×3 kernel multiplies, row by row."""
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    for dy in range(3):
        for dx in range(3):
            yield padded[:, dy : dy + height, dx : dx + width]


def _sum_taps(
    padded: Float[Array, "B h2 w2 D"], kernel: Float[Array, "3 3 D"], barrier: bool
) -> Float[Array, "B h w D"]:
    taps = zip(_shifted(padded), kernel.reshape(9, -1), strict=True)
    out = functools.reduce(operator.add, (shifted * tap for shifted, tap in taps))
    # If a reduction follows, such as a norm's, XLA's CPU backend would call a library
    # for the whole chain, and write each shifted map to memory for it.
    return _unchanged(out, barrier)


def _sum_products(
    padded: Float[Array, "B h2 w2 D"], gradient: Float[Array, "B h w D"]
) -> Float[Array, "9 D"]:
    """Returns the sums of each tap's products with the gradient, in float32."""
    return jnp.stack(
        [
            jnp.sum(shifted * gradient, (0, 1, 2), dtype=jnp.float32)
            for shifted in _shifted(padded)
        ]
    )


def _sum_by_row(
    padded: Float[Array, "B h2 w2 D"], gradient: Float[Array, "B h w D"]
) -> Float[Array, "9 D"]:
    """Returns what `_sum_products` does, computed row by row.

    With whole maps XLA would write nine of them to memory on a CPU.
    """

    def add_row(i, sums):
        rows = jax.lax.dynamic_slice_in_dim(padded, i, 3, axis=1)
        row = jax.lax.dynamic_slice_in_dim(gradient, i, 1, axis=1).astype(jnp.float32)
        return [total + tap * row for total, tap in zip(sums, _shifted(rows))]

    zeros = jnp.zeros((len(gradient), 1, *gradient.shape[2:]), jnp.float32)
    sums = jax.lax.fori_loop(0, gradient.shape[1], add_row, [zeros] * 9)
    return jnp.stack([total.sum((0, 1, 2)) for total in sums])


depthwise_conv3x3.defvjp(_depthwise_forward, _depthwise_backward)

"""Layers that ViT and EoMT are built of.

Legend: B batch, N tokens, D embedding, h w patch grid.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

Dtype = Any

# timm truncates its normal(0.02) at ±2, a hundred standard deviations: a normal.
vit_init = nn.initializers.normal(0.02)


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """U(±1/√fan_in): PyTorch's default for weights and biases of Linear and Conv."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(rng, shape, dtype=jnp.float32):
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU by erf, as PyTorch has it.

    jax.nn.gelu's goes by erfc, which XLA makes of several functions on a CPU.
    """
    return 0.5 * x * (1.0 + jax.lax.erf(x * np.float32(math.sqrt(0.5)).astype(x.dtype)))


class LayerNorm(nn.Module):
    """Normalises the last axis in float32, returns the compute dtype.

    Not flax's: the two-pass variance is what other frameworks compute, and bfloat16
    activations must not be squared in bfloat16.
    """

    epsilon: float = 1e-6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return (x * scale + bias).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(
    x: Float[Array, "*shape"], kernel: Float[Array, "*axes"], num_axes: int = 1
) -> Float[Array, "*out"]:
    """Contracts the last axes of `x` with the first of `kernel`, as jnp.tensordot does.

    The gradient of the kernel sums over all tokens of the batch. XLA writes out the
    transposed activations for that on a CPU, unless they are plain matrices; elsewhere
    to make them so is a copy itself, or moves shards.
    """
    return jnp.tensordot(x, kernel, num_axes)


def _project_forward(x, kernel, num_axes):
    return project(x, kernel, num_axes), (x, kernel)


def _project_backward(num_axes, residuals, gradient):
    x, kernel = residuals
    kernel_gradient = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=functools.partial(_sum_matrices, num_axes=num_axes),
        default=functools.partial(_sum_tokens, num_axes=num_axes),
    )
    axes = tuple(range(num_axes - kernel.ndim, 0))
    return jnp.tensordot(gradient, kernel, (axes, axes)), kernel_gradient


def _sum_tokens(
    x: Float[Array, "*shape"], gradient: Float[Array, "*out"], *, num_axes: int
) -> Float[Array, "*axes"]:
    """The gradient of a kernel that contracts so many axes of `x`."""
    tokens = tuple(range(x.ndim - num_axes))
    return jnp.tensordot(x, gradient, (tokens, tokens))


def _sum_matrices(
    x: Float[Array, "*shape"], gradient: Float[Array, "*out"], *, num_axes: int
) -> Float[Array, "*axes"]:
    """The same by a product of matrices."""
    tokens, axes = x.shape[: x.ndim - num_axes], x.shape[x.ndim - num_axes :]
    features = gradient.shape[len(tokens) :]
    rows = math.prod(tokens)
    out = x.reshape(rows, math.prod(axes)).T @ gradient.reshape(rows, -1)
    return out.reshape(*axes, *features)


project.defvjp(_project_forward, _project_backward)


class Dense(nn.Module):
    """A linear layer over the last axes, with LayerScale after it where one is given.

    The scale goes to the weights and not to the result: a pass over activations less,
    and over their gradients.

    Attributes:
      features: D.
      num_axes: how many axes are contracted.
      kernel_init, bias_init: initializers.
      dtype: of the result.
    """

    features: int
    num_axes: int = 1
    kernel_init: nn.initializers.Initializer = vit_init
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*shape"], scale: Float[Array, " D"] | None = None
    ) -> Float[Array, "*out D"]:
        axes = x.shape[-self.num_axes :]
        kernel = self.param("kernel", self.kernel_init, (*axes, self.features))
        bias = self.param("bias", self.bias_init, (self.features,))
        if scale is not None:
            kernel, bias = kernel * scale, bias * scale
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        out: Any = project(x, kernel, self.num_axes)
        return out + bias


class Mlp(nn.Module):
    """Linear, exact GELU, Linear; scaled."""

    hidden_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*shape D"], scale: Float[Array, " D"]
    ) -> Float[Array, "*shape D"]:
        embed_dim = x.shape[-1]
        x = Dense(self.hidden_dim, dtype=self.dtype, name="up")(x)
        return Dense(embed_dim, dtype=self.dtype, name="down")(gelu(x), scale)


class SwiGlu(nn.Module):
    """One projection to gate and value, packed in this order; SiLU(gate)·value; out,
    scaled.
    """

    hidden_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*shape D"], scale: Float[Array, " D"]
    ) -> Float[Array, "*shape D"]:
        embed_dim = x.shape[-1]
        x = Dense(2 * self.hidden_dim, dtype=self.dtype, name="gate_up")(x)
        gate, value = jnp.split(x, 2, axis=-1)
        down = Dense(embed_dim, dtype=self.dtype, name="down")
        return down(nn.silu(gate) * value, scale)


class MaskHead(nn.Module):
    """Query tokens to mask embeddings: Linear, GELU, Linear, GELU, Linear."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        embed_dim = x.shape[-1]
        init = uniform_fan_in(embed_dim)
        for i in range(3):
            x = Dense(
                embed_dim,
                kernel_init=init,
                bias_init=init,
                dtype=self.dtype,
                name=f"layer_{i}",
            )(x)
            if i < 2:
                x = gelu(x)
        return x


class TransposedConv2x2(nn.Module):
    """2×2 transposed convolution of stride 2 as one matrix product.

    Kernel and stride are equal, so every output pixel has a single input pixel: the
    convolution is a Dense layer to 4·D whose outputs are laid out as 2×2 blocks.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h2 w2 D"]:
        batch, height, width, dim = x.shape
        # PyTorch takes the fan-in of a transposed convolution from its output side.
        init = uniform_fan_in(4 * dim)
        kernel = self.param("kernel", init, (dim, 2, 2, dim))
        bias = self.param("bias", init, (dim,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = x.reshape(-1, dim) @ kernel.reshape(dim, 4 * dim)
        x = x.reshape(batch, height, width, 2, 2, dim).swapaxes(2, 3)
        return x.reshape(batch, 2 * height, 2 * width, dim) + bias


# Queries of an image that a target is matched to, as a rule.
FEW_QUERIES = 32


@jax.custom_vjp
def mask_product(
    queries: Float[Array, "B Q D"], pixels: Float[Array, "B P D"]
) -> Float[Array, "B Q P"]:
    """Products of mask embeddings and pixel features, in float32.

    The loss has a gradient for the masks of matched queries alone. So the gradients
    are products of FEW_QUERIES where that is enough; but not on an accelerator, which
    would have to wait for the answer.
    """
    return _product(queries, pixels)


def _product(queries, pixels):
    return jnp.matmul(
        queries, pixels.swapaxes(1, 2), preferred_element_type=jnp.float32
    )


def _mask_product_forward(queries, pixels):
    return mask_product(queries, pixels), (queries, pixels)


def _mask_product_backward(residuals, gradient):
    return jax.lax.platform_dependent(
        *residuals, gradient, cpu=_gradients_of_matched, default=_gradients_of_all
    )


def _gradients_of_all(
    queries: Float[Array, "B Q D"],
    pixels: Float[Array, "B P D"],
    gradient: Float[Array, "B Q P"],
) -> tuple[Float[Array, "B Q D"], Float[Array, "B P D"]]:
    return jax.vjp(_product, queries, pixels)[1](gradient)


def _gradients_of_matched(
    queries: Float[Array, "B Q D"],
    pixels: Float[Array, "B P D"],
    gradient: Float[Array, "B Q P"],
) -> tuple[Float[Array, "B Q D"], Float[Array, "B P D"]]:
    """The same, whatever the number of queries that have a gradient."""
    if queries.shape[1] <= FEW_QUERIES:
        return _gradients_of_all(queries, pixels, gradient)
    matched = (gradient != 0).any(-1)

    def of_few():
        _, rows = jax.lax.top_k(matched.astype(jnp.int32), FEW_QUERIES)
        at = jnp.arange(len(queries))[:, None], rows
        of_rows, of_pixels = _gradients_of_all(queries[at], pixels, gradient[at])
        return jnp.zeros_like(queries).at[at].set(of_rows), of_pixels

    return jax.lax.cond(
        matched.sum(-1).max() <= FEW_QUERIES,
        of_few,
        lambda: _gradients_of_all(queries, pixels, gradient),
    )


mask_product.defvjp(_mask_product_forward, _mask_product_backward)


def _shifted(padded: Float[Array, "B h2 w2 D"]) -> Iterator[Float[Array, "B h w D"]]:
    """What each tap of a 3×3 kernel sees, row by row, of a map with a border."""
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    for dy in range(3):
        for dx in range(3):
            yield padded[:, dy : dy + height, dx : dx + width]


def _with_border(x: Float[Array, "B h w D"]) -> Float[Array, "B h2 w2 D"]:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


@jax.custom_vjp
def depthwise_conv3x3(
    x: Float[Array, "B h w D"], kernel: Float[Array, "3 3 D"]
) -> Float[Array, "B h w D"]:
    """3×3 convolution of each channel by itself, zero padding 1.

    Nine shifted multiply-adds: XLA fuses them, while its grouped convolution is more
    than ten times slower on CPU. The gradient is nine more; the one that JAX derives
    keeps nine maps of x's size at a time.
    """
    out = jnp.zeros_like(x)
    for shifted, tap in zip(_shifted(_with_border(x)), kernel.reshape(9, -1)):
        out += shifted * tap
    # Changes nothing. But XLA's CPU backend gives chains that end in a reduction, such
    # as a norm's, to a library, for which it would write out each shifted map.
    return jax.lax.reduce_precision(out, exponent_bits=8, mantissa_bits=23)


def _depthwise_forward(x, kernel):
    return depthwise_conv3x3(x, kernel), (x, kernel)


def _depthwise_backward(residuals, gradient):
    x, kernel = residuals
    taps = jax.lax.platform_dependent(
        _with_border(x), gradient, cpu=_sum_by_row, default=_sum_products
    )
    kernel_gradient = taps.reshape(kernel.shape).astype(kernel.dtype)
    return depthwise_conv3x3(gradient, kernel[::-1, ::-1]), kernel_gradient


def _sum_products(
    padded: Float[Array, "B h2 w2 D"], gradient: Float[Array, "B h w D"]
) -> Float[Array, "9 D"]:
    """Sums of each tap's products with the gradient, in float32."""
    return jnp.stack(
        [
            jnp.sum(shifted * gradient, (0, 1, 2), dtype=jnp.float32)
            for shifted in _shifted(padded)
        ]
    )


def _sum_by_row(
    padded: Float[Array, "B h2 w2 D"], gradient: Float[Array, "B h w D"]
) -> Float[Array, "9 D"]:
    """The same a row at a time: of whole maps XLA would write out nine on a CPU."""

    def add_row(i, sums):
        rows = jax.lax.dynamic_slice_in_dim(padded, i, 3, axis=1)
        row = jax.lax.dynamic_slice_in_dim(gradient, i, 1, axis=1).astype(jnp.float32)
        return [total + tap * row for total, tap in zip(sums, _shifted(rows))]

    zeros = jnp.zeros((len(gradient), 1, *gradient.shape[2:]), jnp.float32)
    sums = jax.lax.fori_loop(0, gradient.shape[1], add_row, [zeros] * 9)
    return jnp.stack([total.sum((0, 1, 2)) for total in sums])


depthwise_conv3x3.defvjp(_depthwise_forward, _depthwise_backward)


class DepthwiseConv3x3(nn.Module):
    """`depthwise_conv3x3` with its kernel, without bias."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        kernel = self.param("kernel", uniform_fan_in(9), (3, 3, x.shape[-1]))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        return depthwise_conv3x3(x, kernel)


class UpscaleBlock(nn.Module):
    """Doubles the resolution: transposed convolution, GELU, depthwise 3×3, norm."""

    layer_norm_eps: float = 1e-6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h2 w2 D"]:
        x = TransposedConv2x2(dtype=self.dtype, name="transposed")(x)
        x = gelu(x)
        x = DepthwiseConv3x3(dtype=self.dtype, name="depthwise")(x)
        return LayerNorm(self.layer_norm_eps, self.dtype, name="norm")(x)


class Upscale(nn.Module):
    """Patch map to pixel features, `num_blocks` doublings."""

    num_blocks: int
    layer_norm_eps: float = 1e-6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h2 w2 D"]:
        for i in range(self.num_blocks):
            x = UpscaleBlock(self.layer_norm_eps, self.dtype, name=f"block_{i}")(x)
        return x

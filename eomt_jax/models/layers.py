"""Layers that ViT and EoMT are built of.

Legend: B batch, N tokens, D embedding, h w patch grid.
"""

import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
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


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    hidden_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        embed_dim = x.shape[-1]
        x = nn.Dense(
            self.hidden_dim, kernel_init=vit_init, dtype=self.dtype, name="up"
        )(x)
        x = nn.gelu(x, approximate=False)
        return nn.Dense(embed_dim, kernel_init=vit_init, dtype=self.dtype, name="down")(
            x
        )


class SwiGlu(nn.Module):
    """One projection to gate and value, packed in this order; SiLU(gate)·value; out."""

    hidden_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        embed_dim = x.shape[-1]
        x = nn.Dense(
            2 * self.hidden_dim, kernel_init=vit_init, dtype=self.dtype, name="gate_up"
        )(x)
        gate, value = jnp.split(x, 2, axis=-1)
        return nn.Dense(embed_dim, kernel_init=vit_init, dtype=self.dtype, name="down")(
            nn.silu(gate) * value
        )


class MaskHead(nn.Module):
    """Query tokens to mask embeddings: Linear, GELU, Linear, GELU, Linear."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        embed_dim = x.shape[-1]
        init = uniform_fan_in(embed_dim)
        for i in range(3):
            x = nn.Dense(
                embed_dim,
                kernel_init=init,
                bias_init=init,
                dtype=self.dtype,
                name=f"layer_{i}",
            )(x)
            if i < 2:
                x = nn.gelu(x, approximate=False)
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
        x = jnp.einsum("bhwc,cyxd->bhywxd", x, kernel)
        return x.reshape(batch, 2 * height, 2 * width, dim) + bias


def _shifted(x: Float[Array, "B h w D"]) -> Iterator[Float[Array, "B h w D"]]:
    """What each tap of a 3×3 kernel sees, row by row; 0 outside."""
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for dy in range(3):
        for dx in range(3):
            yield padded[:, dy : dy + height, dx : dx + width]


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
    for shifted, tap in zip(_shifted(x), kernel.reshape(9, -1), strict=True):
        out += shifted * tap
    return out


def _depthwise_forward(x, kernel):
    return depthwise_conv3x3(x, kernel), (x, kernel)


def _depthwise_backward(residuals, gradient):
    x, kernel = residuals
    taps = [
        jnp.sum(shifted * gradient, (0, 1, 2), dtype=jnp.float32)
        for shifted in _shifted(x)
    ]
    kernel_gradient = jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)
    return depthwise_conv3x3(gradient, kernel[::-1, ::-1]), kernel_gradient


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
        x = nn.gelu(x, approximate=False)
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

"""Blocks that double or halve the resolution of a map of patches.

Source: the scale blocks of tue-mps/eomt@7bd19dd.
Legend: B batch, D embedding, h w patch grid.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from eomt_jax.models.functions import gelu
from eomt_jax.models.kernels.depthwise import depthwise_conv3x3
from eomt_jax.models.layers import LayerNorm, PatchEmbedding, on_gpu, uniform_fan_in
from eomt_jax.models.mask_product import PixelFeatures
from eomt_jax.parallel.partition import Rules

Dtype = Any

SCALE_BLOCK_RULES: Rules = (
    (r"transposed/kernel", ("fsdp", None, None, "tensor")),
    (r"transposed/bias", ("tensor",)),
    (r"depthwise/kernel", (None, None, "tensor")),
)
"""Rules of the parameters of UpscaleBlock, without its norm."""


class TransposedConv2x2(nn.Module):
    """2×2 transposed convolution of stride 2 as one matrix product.

    Kernel and stride are equal, so every output pixel has a single input pixel: the
    convolution is a Dense layer to 4·D whose outputs are laid out as 2×2 blocks.

    Attributes:
      kernel_init, bias_init: initializers; PyTorch's default if they are None.
      dtype: type of the result.
    """

    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h2 w2 D"]:
        batch, height, width, dim = x.shape
        # PyTorch takes the fan-in of a transposed convolution from its output side.
        init = uniform_fan_in(4 * dim)
        kernel = self.param("kernel", self.kernel_init or init, (dim, 2, 2, dim))
        bias = self.param("bias", self.bias_init or init, (dim,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = x.reshape(-1, dim) @ kernel.reshape(dim, 4 * dim) + jnp.tile(bias, 4)
        x = x.reshape(batch, height, width, 2, 2, dim).swapaxes(2, 3)
        return x.reshape(batch, 2 * height, 2 * width, dim)


class DepthwiseConv3x3(nn.Module):
    """3×3 convolution of each channel, by `depthwise_conv3x3`.

    Attributes:
      use_bias: whether a number is added to each channel; it starts at 0.
      kernel_init: initializer.
      dtype: type of the result.
    """

    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = uniform_fan_in(9)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        dim = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (3, 3, dim))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        out: Any = depthwise_conv3x3(x, kernel, on_gpu())
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (dim,))
            out = out + jnp.asarray(bias, self.dtype)
        return out


class UpscaleBlock(nn.Module):
    """Doubles the resolution: transposed convolution, GELU, depthwise 3×3, norm."""

    layer_norm_eps: float = 1e-6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> PixelFeatures:
        x = gelu(self.resized(x))
        x = DepthwiseConv3x3(dtype=self.dtype, name="depthwise")(x)
        norm = LayerNorm(self.layer_norm_eps, name="norm")
        affine = norm.affine(x.shape[-1])
        return PixelFeatures(x, *affine, self.layer_norm_eps, on_gpu())

    def resized(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h2 w2 D"]:
        """Returns the result of the convolution that changes the resolution."""
        return TransposedConv2x2(dtype=self.dtype, name="transposed")(x)


class DownscaleBlock(UpscaleBlock):
    """Halves the resolution: convolution 2×2, GELU, depthwise 3×3, norm."""

    def resized(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h2 w2 D"]:
        dim = x.shape[-1]
        init = uniform_fan_in(4 * dim)
        return PatchEmbedding(dim, 2, init, init, dtype=self.dtype, name="conv")(x)


class Upscale(nn.Module):
    """Turns the patch map into pixel features, by `num_blocks` doublings."""

    num_blocks: int
    layer_norm_eps: float = 1e-6
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> PixelFeatures:
        block = functools.partial(UpscaleBlock, self.layer_norm_eps, self.dtype)
        pixels = block(name="block_0")(x)
        for i in range(1, self.num_blocks):
            pixels = block(name=f"block_{i}")(pixels.normalized())
        return pixels

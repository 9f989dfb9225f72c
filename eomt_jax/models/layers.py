"""Layers of ViT and EoMT.

Legend: B batch, N tokens, D embedding, h w patch grid.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from eomt_jax.models.functions import gelu, layer_norm, project, project_gelu
from eomt_jax.parallel.platform import current_platform

Dtype = Any

# timm truncates its normal(0.02) at ±2, a hundred standard deviations, which changes
# nothing.
vit_init = nn.initializers.normal(0.02)


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Returns U(±1/√fan_in), PyTorch's default for weights and biases."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(rng, shape, dtype=jnp.float32):
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


def on_gpu() -> bool:
    """Returns whether the layer is traced for a GPU."""
    return current_platform().name == "gpu"


class LayerNorm(nn.Module):
    """Layer norm by functions.layer_norm; the result is in the compute dtype."""

    epsilon: float = 1e-6
    dtype: Dtype = jnp.float32

    def __call__(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        scale, bias = self.affine(x.shape[-1])
        out: Any = layer_norm(x, scale, bias, self.epsilon, on_gpu())
        return out.astype(self.dtype)

    @nn.compact
    def affine(self, dim: int) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
        """Returns scale and bias."""
        scale = self.param("scale", nn.initializers.ones, (dim,))
        bias = self.param("bias", nn.initializers.zeros, (dim,))
        return jnp.asarray(scale), jnp.asarray(bias)


class Dense(nn.Module):
    """A linear layer over the last axes, with LayerScale after it if one is given.

    LayerScale multiplies the weights and not the result, which saves a pass over the
    activations and over their gradients.

    Attributes:
      features: D.
      num_axes: how many axes are contracted.
      kernel_init, bias_init: initializers.
      activates: whether it multiplies gelu(x) instead of x; see functions.project_gelu.
      dtype: type of the result.
    """

    features: int
    num_axes: int = 1
    activates: bool = False
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
        out: Any
        if self.activates:
            out = project_gelu(x, kernel)
        else:
            out = project(x, kernel, self.num_axes)
        return out + bias


class PatchEmbedding(nn.Module):
    """Linear projection of square patches, as one matrix product.

    It is a convolution whose stride is its size, with a convolution's parameters.

    Attributes:
      features: D.
      patch_size: p, the length of both sides.
      kernel_init, bias_init: initializers.
      dtype: type of the result.
    """

    features: int
    patch_size: int
    kernel_init: nn.initializers.Initializer = vit_init
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        batch, height, width, channels = pixels.shape
        size = self.patch_size
        shape = (size, size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, (self.features,))
        pixels, kernel, bias = promote_dtype(pixels, kernel, bias, dtype=self.dtype)
        rows, columns = height // size, width // size
        patches = pixels.reshape(batch, rows, size, columns, size, channels)
        patches = patches.swapaxes(2, 3).reshape(batch, rows, columns, -1)
        out: Any = project(patches, kernel.reshape(-1, self.features))
        return out + bias


class Mlp(nn.Module):
    """Linear, exact GELU, Linear and LayerScale."""

    hidden_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*shape D"], scale: Float[Array, " D"] | None
    ) -> Float[Array, "*shape D"]:
        embed_dim = x.shape[-1]
        x = Dense(self.hidden_dim, dtype=self.dtype, name="up")(x)
        activates = current_platform().name in ("gpu", "tpu")
        down = Dense(embed_dim, activates=activates, dtype=self.dtype, name="down")
        return down(x if activates else gelu(x), scale)


class SwiGlu(nn.Module):
    """SwiGLU: Linear to gate and value, SiLU(gate) · value, Linear and LayerScale.

    The first layer's features are the gate's and then the value's.
    """

    hidden_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*shape D"], scale: Float[Array, " D"] | None
    ) -> Float[Array, "*shape D"]:
        embed_dim = x.shape[-1]
        x = Dense(2 * self.hidden_dim, dtype=self.dtype, name="gate_up")(x)
        gate, value = jnp.split(x, 2, axis=-1)
        down = Dense(embed_dim, dtype=self.dtype, name="down")
        return down(nn.silu(gate) * value, scale)


class ReluMlp(nn.Module):
    """Linear, ReLU, Linear, as in DETR's and Mask2Former's transformer layers."""

    hidden_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        embed_dim = x.shape[-1]

        def dense(features: int, name: str) -> Dense:
            fan_in = self.hidden_dim if name == "down" else embed_dim
            return Dense(
                features,
                kernel_init=nn.initializers.xavier_uniform(),
                bias_init=uniform_fan_in(fan_in),
                dtype=self.dtype,
                name=name,
            )

        x = nn.relu(dense(self.hidden_dim, "up")(x))
        return dense(embed_dim, "down")(x)


class MaskHead(nn.Module):
    """Turns query tokens into mask embeddings, by three linear layers.

    Attributes:
      dtype: type of the result.
      activation: function between the layers.
    """

    dtype: Dtype = jnp.float32
    activation: Callable[[Any], Any] = gelu

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
                x = self.activation(x)
        return x

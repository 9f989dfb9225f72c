"""Batch normalisation by the statistics of the global batch.

Legend: B batch, h w map, D channels.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from eomt_jax.models.functions import standardize_gradient
from eomt_jax.trees import BATCH_STATS

Dtype = Any

_STATISTICS = "batch_norm statistics"

keep_statistics = jax.checkpoint_policies.save_only_these_names(_STATISTICS)
"""Policy of jax.checkpoint: the backward pass has the statistics and nothing else.

Statistics that were computed again would be summed over all devices again.
"""


class BatchNorm(nn.Module):
    """Normalises each channel over the batch and all pixels, as PyTorch's SyncBatchNorm.

    Mean and variance are computed in float32 in two passes. Under jit the batch is the
    global one, however it is split over devices. The running statistics, in the
    collection "batch_stats", move by a tenth with each batch in training; their
    variance is the unbiased one. flax's layer isn't used, because it keeps the biased
    variance.

    Attributes:
      epsilon: added to the variance.
      momentum: share of the batch in the new running statistics.
      dtype: type of the result.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w D"], train: bool
    ) -> Float[Array, "B h w D"]:
        """Returns the normalised map.

        Args:
          x: the map.
          train: whether the statistics are those of this batch, and update the running
            ones, for which apply needs mutable=["batch_stats"].

        Raises:
          ValueError: there is one value per channel, which has no variance.
        """
        *rows, dim = x.shape
        scale = jnp.asarray(self.param("scale", nn.initializers.ones, (dim,)))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (dim,)))
        running_mean: Any = self.variable(BATCH_STATS, "mean", jnp.zeros, (dim,))
        running_variance: Any = self.variable(BATCH_STATS, "var", jnp.ones, (dim,))
        if not train:
            inverse = jax.lax.rsqrt(running_variance.value + self.epsilon)
            out = (x.astype(jnp.float32) - running_mean.value) * (inverse * scale)
            return (out + bias).astype(self.dtype)
        count = math.prod(rows)
        if count == 1:
            raise ValueError(
                f"A batch of shape {x.shape} has one value per channel, and so no batch "
                "statistics: train with more images or larger ones."
            )
        mean, variance = batch_statistics(jax.lax.stop_gradient(x))
        if not self.is_initializing():
            unbiased = variance * (count / (count - 1))
            for running, new in ((running_mean, mean), (running_variance, unbiased)):
                running.value += self.momentum * (new - running.value)
        inverse = jax.lax.rsqrt(variance + self.epsilon)
        out: Any = _normalize(x, scale, bias, mean, inverse)
        return out.astype(self.dtype)


def batch_statistics(
    x: Float[Array, "B h w D"],
) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
    """Returns mean and biased variance of each channel in float32."""
    x = x.astype(jnp.float32)
    mean = checkpoint_name(x.mean((0, 1, 2)), _STATISTICS)
    variance = jnp.square(x - mean).mean((0, 1, 2))
    return mean, checkpoint_name(variance, _STATISTICS)


@jax.custom_vjp
def _normalize(
    x: Float[Array, "B h w D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    mean: Float[Array, " D"],
    inverse: Float[Array, " D"],
) -> Float[Array, "B h w D"]:
    """Normalises x by its own statistics, and returns float32.

    The gradient of x takes into account that the statistics depend on x, and reads
    nothing but x in its own type. JAX's own would keep maps in float32.

    Args:
      x: the map.
      scale: factor of the result.
      bias: added to the result.
      mean: the mean of x.
      inverse: 1 / the deviation of x.
    """
    return (x.astype(jnp.float32) - mean) * (inverse * scale) + bias


def _normalize_forward(x, scale, bias, mean, inverse):
    return _normalize(x, scale, bias, mean, inverse), (x, scale, mean, inverse)


def _normalize_backward(residuals, gradient):
    x, scale, mean, inverse = jax.lax.optimization_barrier(residuals)
    standardized = (x.astype(jnp.float32) - mean) * inverse
    pixels = (0, 1, 2)
    of_x = standardize_gradient(gradient * scale, standardized, inverse, pixels)
    of_scale = (gradient * standardized).sum(pixels)
    of_bias = gradient.sum(pixels)
    nothing = jnp.zeros_like(mean)
    return of_x.astype(x.dtype), of_scale, of_bias, nothing, nothing


_normalize.defvjp(_normalize_forward, _normalize_backward)

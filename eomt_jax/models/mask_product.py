"""The product of mask embeddings and pixel features, with a gradient of its own.

Legend: B batch, Q queries, D embedding, h w map.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eomt_jax.models.functions import layer_norm, standardize, standardize_gradient


class PixelFeatures(flax.struct.PyTreeNode):
    """Pixel features whose last norm is still to come.

    Attributes:
      maps: what is to be normalised, in the compute dtype.
      scale: of the norm.
      bias: of the norm.
      epsilon: of the norm.
      on_gpu: see functions.layer_norm.
    """

    maps: Float[Array, "B h w D"]
    scale: Float[Array, " D"]
    bias: Float[Array, " D"]
    epsilon: float = flax.struct.field(pytree_node=False)
    on_gpu: bool = flax.struct.field(pytree_node=False, default=False)

    def normalized(self) -> Float[Array, "B h w D"]:
        """In the compute dtype."""
        x: Any = layer_norm(self.maps, self.scale, self.bias, self.epsilon, self.on_gpu)
        return x.astype(self.maps.dtype)


class MaskFactors(flax.struct.PyTreeNode):
    """Mask logits before their product, of which few are wanted.

    Indexed with queries, those of one image are their logits.

    Attributes:
      embeddings: of the queries.
      features: of the pixels, normalised.
    """

    embeddings: Float[Array, "*B Q D"]
    features: Float[Array, "*B h w D"]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the logits, [*B, Q, h, w]."""
        *batch, height, width, _ = self.features.shape
        return (*batch, self.embeddings.shape[-2], height, width)

    def __getitem__(self, queries: Int[Array, " C"]) -> Float[Array, "C h w"]:
        height, width, dim = self.features.shape
        logits = jnp.matmul(
            self.embeddings[queries],
            self.features.reshape(-1, dim).T,
            preferred_element_type=jnp.float32,
        )
        return logits.reshape(-1, height, width)


# Queries of an image that a target is matched to, as a rule.
FEW_QUERIES = 32


@jax.custom_vjp
def mask_product(
    queries: Float[Array, "B Q D"], pixels: PixelFeatures
) -> Float[Array, "B Q h w"]:
    """Products of mask embeddings and normalised pixel features, in float32.

    The loss has a gradient for the masks of matched queries alone. So the gradients
    are products of FEW_QUERIES where that is enough; but not on an accelerator, which
    would have to wait for the answer. Of the pixel features nothing is kept but what
    is to be normalised.
    """
    return _product(queries, pixels)


def _product(queries: Float[Array, "B Q D"], pixels: PixelFeatures) -> Any:
    batch, height, width, dim = pixels.maps.shape
    features = pixels.normalized().reshape(batch, height * width, dim)
    out = jnp.matmul(
        queries, features.swapaxes(1, 2), preferred_element_type=jnp.float32
    )
    return out.reshape(batch, -1, height, width)


def _mask_product_forward(queries, pixels):
    return mask_product(queries, pixels), (queries, pixels)


def _mask_product_backward(residuals, gradient):
    queries, pixels = residuals
    if pixels.on_gpu:
        return _gradients_on_gpu(queries, pixels, gradient)
    return jax.lax.platform_dependent(
        queries, pixels, gradient, cpu=_gradients_of_matched, default=_derived_gradients
    )


def _gradients_on_gpu(
    queries: Float[Array, "B Q D"],
    pixels: PixelFeatures,
    gradient: Float[Array, "B Q h w"],
) -> tuple[Float[Array, "B Q D"], PixelFeatures]:
    """The gradients by products in the compute dtype, of maps as they lie in memory.

    What JAX derives multiplies in float32, and writes out the features' gradient
    transposed.
    """
    queries, pixels = jax.lax.optimization_barrier((queries, pixels))
    features, vjp = jax.vjp(PixelFeatures.normalized, pixels)
    gradient = gradient.reshape(*queries.shape[:2], -1).astype(queries.dtype)
    flat = features.reshape(len(queries), -1, features.shape[-1])
    of_queries = jnp.matmul(gradient, flat)
    of_features = jnp.matmul(gradient.swapaxes(1, 2), queries)
    return of_queries, vjp(of_features.reshape(features.shape))[0]


def _derived_gradients(
    queries: Float[Array, "B Q D"],
    pixels: PixelFeatures,
    gradient: Float[Array, "B Q h w"],
) -> tuple[Float[Array, "B Q D"], PixelFeatures]:
    """As JAX has them."""
    return jax.vjp(_product, queries, pixels)[1](gradient)


def _gradients_of_matched(
    queries: Float[Array, "B Q D"],
    pixels: PixelFeatures,
    gradient: Float[Array, "B Q h w"],
) -> tuple[Float[Array, "B Q D"], PixelFeatures]:
    """The same, whatever the number of queries that have a gradient."""
    if queries.shape[1] <= FEW_QUERIES:
        return _gradients(queries, pixels, gradient)
    matched = (gradient != 0).any((2, 3))

    def of_few():
        _, rows = jax.lax.top_k(matched.astype(jnp.int32), FEW_QUERIES)
        at = jnp.arange(len(queries))[:, None], rows
        of_rows, of_pixels = _gradients(queries[at], pixels, gradient[at])
        return jnp.zeros_like(queries).at[at].set(of_rows), of_pixels

    return jax.lax.cond(
        matched.sum(-1).max() <= FEW_QUERIES,
        of_few,
        lambda: _gradients(queries, pixels, gradient),
    )


def _gradients(
    queries: Float[Array, "B Q D"],
    pixels: PixelFeatures,
    gradient: Float[Array, "B Q h w"],
) -> tuple[Float[Array, "B Q D"], PixelFeatures]:
    """The same in few passes over the maps, in float32.

    What JAX derives has a CPU write out the norm's statistics at the maps' size.
    """
    batch, _, _, dim = pixels.maps.shape
    maps = pixels.maps.reshape(batch, -1, dim)
    gradient = gradient.reshape(*queries.shape[:2], -1)
    embeddings = queries.astype(jnp.float32)
    standardized, inverse = standardize(maps, pixels.epsilon)

    # Sums over pixels go by the maps as they lie, without the standardised ones.
    weights = gradient * inverse.swapaxes(1, 2)
    mean = maps.astype(jnp.float32).mean(-1, keepdims=True)
    sums = jnp.matmul(weights, maps) - jnp.matmul(weights, mean)
    totals = gradient.sum(-1, keepdims=True)
    of_queries = sums * pixels.scale + totals * pixels.bias

    of_normalized = jnp.matmul(gradient.swapaxes(1, 2), embeddings * pixels.scale)
    of_maps = standardize_gradient(of_normalized, standardized, inverse)
    return of_queries.astype(queries.dtype), pixels.replace(
        maps=of_maps.astype(pixels.maps.dtype).reshape(pixels.maps.shape),
        scale=(sums * embeddings).sum((0, 1)),
        bias=(totals * embeddings).sum((0, 1)),
    )


mask_product.defvjp(_mask_product_forward, _mask_product_backward)

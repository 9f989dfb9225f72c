"""The product of mask embeddings and pixel features, with hand-written gradients.

Legend: B batch, Q queries, D embedding, h w map.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eomt_jax.models.functions import layer_norm, standardize, standardize_gradient


class PixelFeatures(flax.struct.PyTreeNode):
    """Pixel features before their last norm, if they have one.

    Attributes:
      maps: the features before the norm, in the compute dtype.
      scale: scale of the norm; None for features without a norm.
      bias: bias of the norm.
      epsilon: epsilon of the norm.
      on_gpu: see functions.layer_norm.
    """

    maps: Float[Array, "B h w D"]
    scale: Float[Array, " D"] | None = None
    bias: Float[Array, " D"] | None = None
    epsilon: float = flax.struct.field(pytree_node=False, default=0.0)
    on_gpu: bool = flax.struct.field(pytree_node=False, default=False)

    def normalized(self) -> Float[Array, "B h w D"]:
        """Returns the normalised features in the compute dtype."""
        if self.scale is None or self.bias is None:
            return self.maps
        x: Any = layer_norm(self.maps, self.scale, self.bias, self.epsilon, self.on_gpu)
        return x.astype(self.maps.dtype)


class MaskFactors(flax.struct.PyTreeNode):
    """The two factors of mask logits, for when the logits of few queries are needed.

    Indexing the factors of one image with queries returns the queries' logits.

    Attributes:
      embeddings: mask embeddings of the queries.
      features: normalised features of the pixels.
    """

    embeddings: Float[Array, "*B Q D"]
    features: Float[Array, "*B h w D"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the logits, [*B, Q, h, w]."""
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


# An image rarely has more targets, and so more matched queries, than this.
FEW_QUERIES = 32


@jax.custom_vjp
def mask_product(
    queries: Float[Array, "B Q D"], pixels: PixelFeatures
) -> Float[Array, "B Q h w"]:
    """Returns products of mask embeddings and pixel features, in float32.

    The loss has a gradient only for the masks of matched queries. So on a CPU the
    gradients are computed for FEW_QUERIES if no more are matched; an accelerator would
    have to wait for their number. Only the features before the norm are kept for the
    backward pass.
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
    """Returns the gradients, by products in the compute dtype.

    JAX's own would multiply in float32, and write the transposed gradient of the
    features to memory.
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
    """Returns the gradients that JAX derives."""
    return jax.vjp(_product, queries, pixels)[1](gradient)


def _gradients_of_matched(
    queries: Float[Array, "B Q D"],
    pixels: PixelFeatures,
    gradient: Float[Array, "B Q h w"],
) -> tuple[Float[Array, "B Q D"], PixelFeatures]:
    """Returns the gradients, computed for FEW_QUERIES if no more have a gradient."""
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
    """Returns the gradients, by few passes over the maps, in float32.

    With JAX's own, a CPU would write a norm's statistics to memory at the maps' size.
    """
    batch, _, _, dim = pixels.maps.shape
    maps = pixels.maps.reshape(batch, -1, dim)
    gradient = gradient.reshape(*queries.shape[:2], -1)
    embeddings = queries.astype(jnp.float32)
    if pixels.scale is None or pixels.bias is None:
        of_queries = jnp.matmul(gradient, maps)
        of_maps = jnp.matmul(gradient.swapaxes(1, 2), embeddings)
        of_maps = of_maps.astype(maps.dtype).reshape(pixels.maps.shape)
        return of_queries.astype(queries.dtype), pixels.replace(maps=of_maps)
    standardized, inverse = standardize(maps, pixels.epsilon)

    # Sums over pixels use the maps before the norm, so that no standardised map is
    # made.
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

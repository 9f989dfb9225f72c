"""Sampling of a map as a product with the matrix of bilinear factors.

Each pixel's factor is a product of one for its row and one for its column, so that the
matrix [queries, rows, columns] is cheap to compute. On TPUs XLA does so inside the
product, tile by tile, and never writes it to memory.

Legend: B batch, Q queries, q queries of a chunk, h w map, d channels of a head, P
points.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Queries of which the matrix is in memory at a time if it must be written.
_CHUNK = 256


def multiply(
    points: Float[Array, "B heads Q P 2"],
    weights: Float[Array, "B heads Q P"],
    maps: Float[Array, "B heads h w d"],
) -> Float[Array, "B heads Q d"]:
    """Returns each query's weighted sum of the map at its points, in float32.

    Args:
      points: (y, x) in [0, 1] over the whole map.
      weights: factor of each point.
      maps: the maps of one level; their type is that of the product's operands.
    """
    return jnp.einsum(
        "...qyx,...yxd->...qd",
        _matrix(points, weights, maps),
        maps,
        preferred_element_type=jnp.float32,
    )


def multiply_transposed(
    points: Float[Array, "B heads Q P 2"],
    weights: Float[Array, "B heads Q P"],
    maps: Float[Array, "B heads h w d"],
    gradient: Float[Array, "B heads Q d"],
    *,
    whole: bool,
) -> Float[Array, "B heads h w d"]:
    """Returns the gradient of `maps` in float32, from that of `multiply`'s result.

    Args:
      points, weights, maps: arguments of `multiply`.
      gradient: gradient of the result.
      whole: whether to compute one product, for TPUs, instead of a chunk at a time.
    """

    def product(points, weights, gradient) -> Float[Array, "B heads h w d"]:
        return jnp.einsum(
            "...qyx,...qd->...yxd",
            _matrix(points, weights, maps),
            gradient.astype(maps.dtype),
            preferred_element_type=jnp.float32,
        )

    if whole:
        return product(points, weights, gradient)
    total, _ = jax.lax.scan(
        lambda total, chunk: (total + product(*chunk), None),
        jnp.zeros(maps.shape, jnp.float32),
        [_chunks(x) for x in (points, weights, gradient)],
    )
    return total


def corner_products(
    points: Float[Array, "B heads Q P 2"],
    gradient: Float[Array, "B heads Q d"],
    maps: Float[Array, "B heads h w d"],
) -> Float[Array, "B heads Q K"]:
    """Returns the products of a gradient with the four pixels around each point.

    They are in the order of `ops.points.neighbours`, and 0 outside of the map. All four
    pixels come from one product with a matrix that is 1 at the first of them: they
    stand side by side in a map with a border of zeros.
    """
    height, width = maps.shape[2:4]
    bordered = jnp.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [
        bordered[:, :, dy : dy + height + 1, dx : dx + width + 1]
        for dy in (0, 1)
        for dx in (0, 1)
    ]
    corners = jnp.concatenate(corners, -1)
    gradient = gradient.swapaxes(2, 3)[:, :, None]

    # One point at a time: the pixels of all of them would take as much memory as a
    # gather's result.
    def products_at(_, point) -> tuple[None, Float[Array, "B heads 4 Q"]]:
        y, x = (
            ((0 <= distance) & (distance < 1)).astype(maps.dtype)
            for distance in _distances(point, maps, first=-1)
        )
        # Queries stand last, so that summing over channels moves nothing.
        pixels = jnp.einsum(
            "...qyx,...yxe->...eq", y[..., :, None] * x[..., None, :], corners
        )
        pixels = pixels.reshape(*pixels.shape[:2], 4, -1, pixels.shape[-1])
        return None, (pixels * gradient).sum(3)

    _, products = jax.lax.scan(products_at, None, jnp.moveaxis(points, 3, 0))
    products = products.transpose(1, 2, 4, 0, 3)
    return products.reshape(*products.shape[:3], -1)


def _matrix(
    points: Float[Array, "B heads q P 2"],
    weights: Float[Array, "B heads q P"],
    maps: Float[Array, "B heads h w d"],
) -> Float[Array, "B heads q h w"]:
    """Returns the factor of each pixel in each query's sum.

    The bilinear factors fall from 1 at the point's row or column to 0 a pixel away.
    """
    matrix = jnp.zeros((), jnp.float32)
    for point in range(points.shape[3]):
        y, x = (
            jnp.maximum(0, 1 - jnp.abs(distance))
            for distance in _distances(points[..., point, :], maps)
        )
        y = y * weights[..., point, None]
        matrix = matrix + y[..., :, None] * x[..., None, :]
    return matrix.astype(maps.dtype)


def _distances(
    points: Float[Array, "B heads q 2"],
    maps: Float[Array, "B heads h w d"],
    first: int = 0,
) -> tuple[Float[Array, "B heads q rows"], Float[Array, "B heads q columns"]]:
    """Returns how far points lie below each row and right of each column, in pixels.

    Args:
      points: (y, x) in [0, 1].
      maps: the maps whose rows and columns are meant.
      first: the first row and column; -1 is one outside of the map.
    """
    y, x = (
        points[..., axis, None] * length - 0.5 - jnp.arange(first, length)
        for axis, length in enumerate(maps.shape[2:4])
    )
    return y, x


def _chunks(x: Float[Array, "B heads Q *shape"]) -> Float[Array, "n B heads q *shape"]:
    """Splits the queries into chunks; the last one is filled with zeros."""
    num_queries = x.shape[2]
    size = min(_CHUNK, num_queries)
    number = -(-num_queries // size)
    padding = [(0, 0)] * x.ndim
    padding[2] = (0, number * size - num_queries)
    x = jnp.pad(x, padding).reshape(*x.shape[:2], number, size, *x.shape[3:])
    return jnp.moveaxis(x, 2, 0)

"""Weighted sums of maps at points, for deformable attention.

A query reads few pixels, and each query others, so it is a product with a sparse
matrix. CPUs and GPUs gather the pixels. On TPUs, for which gathering rows of 32
channels is slow, it is a product with the matrix itself, see `sampling_matrix`.

The gradient of the maps adds to a pixel for each query that reads it. CPUs do so one
after another. On GPUs the sum would depend on the order in which threads arrive, so
they multiply by the matrix too, and the gradient is the same in every run.

Legend: B batch, Q queries, S pixels of all levels, d channels of a head, L levels, P
points, K pixels that a query reads, h w one map.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eomt_jax.models.mask2former.sampling_matrix import (
    corner_products,
    multiply,
    multiply_transposed,
)
from eomt_jax.ops.points import IN_BOUNDS, neighbours

Sizes = tuple[tuple[int, int], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def sample_maps(
    values: Float[Array, "B heads S d"],
    points: Float[Array, "B heads Q L P 2"],
    weights: Float[Array, "B heads Q L P"],
    level_sizes: Sizes,
    platform: str,
) -> Float[Array, "B heads Q d"]:
    """Returns each query's weighted sum of the maps at its points, in float32.

    Maps are read by bilinear interpolation with half-pixel centres, and are 0 outside.
    JAX's own gradient would keep all pixels that were read, 48 for each query with
    three levels and four points.

    Args:
      values: the maps, flattened row by row, one after another.
      points: (y, x) in [0, 1] over the whole map, in float32.
      weights: factor of each point, in float32.
      level_sizes: (h, w) of each map.
      platform: name of the platform, see `parallel.platform`.
    """
    if platform == "tpu":
        sums = [
            multiply(*of_level)
            for of_level in _levels(points, weights, values, level_sizes)
        ]
        return functools.reduce(jnp.add, sums)
    indices, factors = _pixels(points, weights, level_sizes)
    if platform == "gpu":
        return (_read(values, indices) * factors[..., None]).sum(-2)
    # On a CPU XLA fuses reading with a sum of terms, but not with a reduction.
    total = jnp.zeros((), jnp.float32)
    for k in range(indices.shape[-1]):
        total = total + _read(values, indices[..., k]) * factors[..., k, None]
    return total


def _forward(values, points, weights, level_sizes, platform):
    residuals = values, points, weights
    return sample_maps(*residuals, level_sizes, platform), residuals


def _backward(level_sizes, platform, residuals, gradient):
    values, points, weights = residuals

    def pixels(points, weights) -> Any:
        return _pixels(points, weights, level_sizes)[::-1]

    factors, pull, indices = jax.vjp(pixels, points, weights, has_aux=True)
    if platform not in ("tpu", "gpu"):
        of_values, of_factors = _add_in_turn(values, indices, factors, gradient)
        return of_values, *pull(of_factors)
    levels = list(_levels(points, weights, values, level_sizes))
    if platform == "tpu":
        products = [corner_products(at, gradient, maps) for at, _, maps in levels]
        of_factors = jnp.concatenate(products, -1)
    else:
        of_factors = (_read(values, indices) * gradient[..., None, :]).sum(-1)
    of_values = [
        multiply_transposed(*of_level, gradient, whole=platform == "tpu")
        for of_level in levels
    ]
    of_values = [
        maps.reshape(*values.shape[:2], -1, maps.shape[-1]) for maps in of_values
    ]
    return jnp.concatenate(of_values, 2).astype(values.dtype), *pull(of_factors)


sample_maps.defvjp(_forward, _backward)


def _levels(
    points: Array, weights: Array, values: Array, level_sizes: Sizes
) -> Iterator[tuple[Array, Array, Array]]:
    """Yields points, weights and the map of each level."""
    first = 0
    for level, (height, width) in enumerate(level_sizes):
        rows = values[:, :, first : first + height * width]
        maps = rows.reshape(*values.shape[:2], height, width, -1)
        yield points[..., level, :, :], weights[..., level, :], maps
        first += height * width


def _pixels(
    points: Float[Array, "B heads Q L P 2"],
    weights: Float[Array, "B heads Q L P"],
    level_sizes: Sizes,
) -> tuple[Int[Array, "B heads Q K"], Float[Array, "B heads Q K"]]:
    """Returns the indices into S of the pixels that each query reads, and factors."""
    indices, factors, first = [], [], 0
    for level, size in enumerate(level_sizes):
        index, bilinear = neighbours(points[..., level, :, :], size)
        factor = bilinear * weights[..., level, :, None]
        indices.append((index + first).reshape(*index.shape[:3], -1))
        factors.append(factor.reshape(*index.shape[:3], -1))
        first += math.prod(size)
    return jnp.concatenate(indices, -1), jnp.concatenate(factors, -1)


@jax.vmap
@jax.vmap
def _read(
    values: Float[Array, "S d"], indices: Int[Array, "*shape"]
) -> Float[Array, "*shape d"]:
    return values.at[indices].get(**IN_BOUNDS).astype(jnp.float32)


@jax.vmap
@jax.vmap
def _add(
    total: Float[Array, "S d"], indices: Int[Array, " Q"], rows: Float[Array, "Q d"]
) -> Float[Array, "S d"]:
    return total.at[indices].add(rows, **IN_BOUNDS)


def _add_in_turn(
    values: Float[Array, "B heads S d"],
    indices: Int[Array, "B heads Q K"],
    factors: Float[Array, "B heads Q K"],
    gradient: Float[Array, "B heads Q d"],
) -> tuple[Float[Array, "B heads S d"], Float[Array, "B heads Q K"]]:
    """Returns the gradients of values and factors, computed pixel by pixel."""
    ones = jnp.ones((values.shape[-1], 1), jnp.float32)

    def add_pixel(total, pixel) -> Any:
        index, factor = pixel
        # XLA's CPU backend computes a sum of 32 channels faster as a product.
        product = jax.lax.reduce_precision(
            _read(values, index) * gradient, exponent_bits=8, mantissa_bits=23
        )
        total = _add(total, index, gradient * factor[..., None])
        return total, (product @ ones)[..., 0]

    of_values, of_factors = jax.lax.scan(
        add_pixel,
        jnp.zeros(values.shape, jnp.float32),
        (jnp.moveaxis(indices, -1, 0), jnp.moveaxis(factors, -1, 0)),
    )
    return of_values.astype(values.dtype), jnp.moveaxis(of_factors, 0, -1)

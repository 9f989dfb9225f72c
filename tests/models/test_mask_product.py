"""The product of mask embeddings and pixel features has the right gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models import mask_product
from tests.models.test_functions import plain_norm


@pytest.mark.parametrize("matched", [(0, 0), (3, 32), (33, 2), (60, 60)], ids=str)
def test_mask_product_has_the_gradients_of_a_norm_and_a_product(rng, matched):
    """Fewer than FEW_QUERIES queries have a gradient, as many, or more."""
    keys = jax.random.split(rng, 6)
    queries = jax.random.normal(keys[0], (2, 60, 8))
    maps = 1 + jax.random.normal(keys[1], (2, 5, 7, 8))
    scale, bias = 1 + 0.3 * jax.random.normal(keys[4], (2, 8))
    gradient = jax.random.normal(keys[2], (2, 60, 5, 7))
    rank = jax.random.permutation(keys[3], jnp.arange(60))
    gradient *= (rank < jnp.array(matched)[:, None])[..., None, None]
    pixels = mask_product.PixelFeatures(maps, scale, bias, 1e-6)
    out, pull = jax.vjp(mask_product.mask_product, queries, pixels)
    expected, expected_pull = jax.vjp(
        lambda q, *p: jnp.einsum("bqd,bhwd->bqhw", q, plain_norm(*p)),
        *(queries, maps, scale, bias),
    )
    np.testing.assert_allclose(out, expected, atol=1e-5)
    wanted = expected_pull(gradient)
    # Accelerators use the gradients that JAX derives.
    derived = mask_product._derived_gradients(queries, pixels, gradient)
    for found in (pull(gradient), derived):
        for a, b in zip(jax.tree.leaves(found), wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("matched", "on_gpu"), [(3, False), (60, False), (60, True)])
def test_features_without_a_norm_have_the_gradients_of_a_product(matched, on_gpu, rng):
    keys = jax.random.split(rng, 3)
    queries = jax.random.normal(keys[0], (2, 60, 8))
    maps = jax.random.normal(keys[1], (2, 5, 7, 8))
    gradient = jax.random.normal(keys[2], (2, 60, 5, 7))
    gradient *= (jnp.arange(60) < matched)[:, None, None]
    pixels = mask_product.PixelFeatures(maps, on_gpu=on_gpu)
    out, pull = jax.vjp(mask_product.mask_product, queries, pixels)
    expected, expected_pull = jax.vjp(
        lambda queries, maps: jnp.einsum("bqd,bhwd->bqhw", queries, maps), queries, maps
    )
    np.testing.assert_allclose(out, expected, atol=1e-5)
    wanted = expected_pull(gradient)
    for a, b in zip(jax.tree.leaves(pull(gradient)), wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5)


def test_mask_product_of_bfloat16_has_gradients_close_to_those_of_float32(rng):
    keys = jax.random.split(rng, 3)
    queries = jax.random.normal(keys[0], (1, 40, 64))
    maps = 1 + jax.random.normal(keys[1], (1, 8, 8, 64))
    gradient = jax.random.normal(keys[2], (1, 40, 8, 8))
    gradient *= (jnp.arange(40) < 5)[:, None, None]

    def gradients(dtype):
        pixels = mask_product.PixelFeatures(
            maps.astype(dtype), jnp.ones(64), jnp.zeros(64), 1e-6
        )
        out, pull = jax.vjp(mask_product.mask_product, queries.astype(dtype), pixels)
        assert out.dtype == jnp.float32
        return jax.tree.leaves(pull(gradient))

    for a, b in zip(gradients(jnp.bfloat16), gradients(jnp.float32), strict=True):
        a = a.astype(jnp.float32)
        assert jnp.linalg.norm(a - b) < 0.02 * jnp.linalg.norm(b)


def test_gradients_for_a_gpu_are_those_of_other_platforms(rng):
    """The compute dtype is float32, so nothing is rounded to it."""
    keys = jax.random.split(rng, 3)
    queries = jax.random.normal(keys[0], (2, 5, 8))
    maps = 1 + 2 * jax.random.normal(keys[1], (2, 4, 6, 8))
    scale, bias = jax.random.normal(keys[2], (2, 8))
    weights = jnp.sin(jnp.arange(2 * 5 * 24, dtype=jnp.float32)).reshape(2, 5, 4, 6)

    def gradients(on_gpu):
        pixels = mask_product.PixelFeatures(maps, scale, bias, 1e-6, on_gpu)
        return jax.vjp(mask_product.mask_product, queries, pixels)[1](weights)

    found, expected = gradients(True), gradients(False)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_mask_factors_of_some_queries_are_their_rows_of_the_product(rng):
    keys = jax.random.split(rng, 2)
    queries = jax.random.normal(keys[0], (2, 6, 8))
    maps = 1 + jax.random.normal(keys[1], (2, 5, 7, 8))
    pixels = mask_product.PixelFeatures(maps, jnp.ones(8), jnp.zeros(8), 1e-6)
    expected = mask_product.mask_product(queries, pixels)
    factors = mask_product.MaskFactors(queries, pixels.normalized())
    assert factors.shape == expected.shape == (2, 6, 5, 7)
    of_second = jax.tree.map(lambda leaf: leaf[1], factors)
    assert of_second.shape == (6, 5, 7)
    chosen = jnp.array([4, 0, 4])
    np.testing.assert_allclose(of_second[chosen], expected[1][chosen], atol=1e-5)

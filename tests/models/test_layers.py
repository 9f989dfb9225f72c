"""Layers that have gradients of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models import layers
from eomt_jax.models.layers import depthwise_conv3x3


def grouped_convolution(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
def test_depthwise_convolution_and_its_gradients_equal_a_grouped_one(rng, size):
    keys = jax.random.split(rng, 3)
    x, weights = jax.random.normal(keys[0], (2, 2, *size, 6))
    kernel = jax.random.normal(keys[1], (3, 3, 6))

    def results(convolution):
        out, vjp = jax.vjp(convolution, x, kernel)
        return out, *vjp(weights)

    found, expected = results(depthwise_conv3x3), results(grouped_convolution)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_depthwise_kernel_gradient_of_bfloat16_is_summed_in_float32(rng):
    """4096 ones: bfloat16 counts no further than 256."""
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    _, vjp = jax.vjp(depthwise_conv3x3, x, jnp.ones((3, 3, 1), jnp.bfloat16))
    _, gradient = vjp(x)
    assert gradient.dtype == jnp.bfloat16
    assert gradient[1, 1, 0] == 4096


def test_depthwise_kernel_gradient_is_the_same_by_row_and_in_one_piece(rng):
    """Each is the way of other platforms."""
    padded = jax.random.normal(rng, (2, 7, 6, 4))
    gradient = jax.random.normal(jax.random.key(1), (2, 5, 4, 4))
    np.testing.assert_allclose(
        layers._sum_by_row(padded, gradient),
        layers._sum_products(padded, gradient),
        atol=1e-5,
    )


@pytest.mark.parametrize("shape", [(6,), (2, 3)], ids=str)
@pytest.mark.parametrize("tokens", [(5,), (2, 5)], ids=str)
def test_projection_has_the_gradients_of_tensordot(rng, tokens, shape):
    x = jax.random.normal(rng, (*tokens, *shape))
    kernel = jax.random.normal(jax.random.key(1), (*shape, 3, 4))
    gradient = jax.random.normal(jax.random.key(2), (*tokens, 3, 4))
    num_axes = len(shape)
    expected_out, pull = jax.vjp(
        lambda *args: jnp.tensordot(*args, num_axes), x, kernel
    )
    out, found = jax.vjp(lambda *args: layers.project(*args, num_axes), x, kernel)
    np.testing.assert_allclose(out, expected_out, atol=1e-5)
    for expected, of_project in zip(pull(gradient), found(gradient)):
        np.testing.assert_allclose(of_project, expected, atol=1e-5)
    # One is the way of a CPU, the other of all else.
    for sums in (layers._sum_matrices, layers._sum_tokens):
        np.testing.assert_allclose(
            sums(x, gradient, num_axes=num_axes), pull(gradient)[1], atol=1e-5
        )


def test_scaled_dense_is_a_dense_layer_and_a_scale_after_it(rng):
    x = jax.random.normal(rng, (2, 5, 3, 4))
    scale = jnp.linspace(-1, 2, 6)
    layer = layers.Dense(6, num_axes=2)
    params = layer.init(rng, x, scale)["params"]
    assert params["kernel"].shape == (3, 4, 6)
    params["bias"] = jnp.arange(6.0)
    expected = (x.reshape(2, 5, 12) @ params["kernel"].reshape(12, 6)) + params["bias"]
    found = layer.apply({"params": params}, x, scale)
    np.testing.assert_allclose(found, expected * scale, atol=1e-5)


@pytest.mark.parametrize("matched", [(0, 0), (3, 32), (33, 2), (60, 60)], ids=str)
def test_mask_product_has_the_gradients_of_a_product(rng, matched):
    """Fewer queries with a gradient than FEW_QUERIES, as many, and more."""
    keys = jax.random.split(rng, 4)
    queries = jax.random.normal(keys[0], (2, 60, 8))
    pixels = jax.random.normal(keys[1], (2, 35, 8))
    gradient = jax.random.normal(keys[2], (2, 60, 35))
    rank = jax.random.permutation(keys[3], jnp.arange(60))
    gradient *= (rank < jnp.array(matched)[:, None])[..., None]
    out, pull = jax.vjp(layers.mask_product, queries, pixels)
    expected, expected_pull = jax.vjp(
        lambda q, p: jnp.einsum("bqd,bpd->bqp", q, p), queries, pixels
    )
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for found, wanted in zip(pull(gradient), expected_pull(gradient), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)

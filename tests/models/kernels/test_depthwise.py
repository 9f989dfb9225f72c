"""The depthwise convolution and its gradients equal a grouped convolution's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models.kernels import depthwise
from eomt_jax.models.kernels.depthwise import depthwise_conv3x3


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
    """The sum is over 4096 ones, and bfloat16 counts only to 256."""
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    _, vjp = jax.vjp(depthwise_conv3x3, x, jnp.ones((3, 3, 1), jnp.bfloat16))
    _, gradient = vjp(x)
    assert gradient.dtype == jnp.bfloat16
    assert gradient[1, 1, 0] == 4096


def test_depthwise_kernel_gradient_is_the_same_by_row_and_in_one_piece(rng):
    """Each of them is used on other platforms."""
    padded = jax.random.normal(rng, (2, 7, 6, 4))
    gradient = jax.random.normal(jax.random.key(1), (2, 5, 4, 4))
    np.testing.assert_allclose(
        depthwise._sum_by_row(padded, gradient),
        depthwise._sum_products(padded, gradient),
        atol=1e-5,
    )

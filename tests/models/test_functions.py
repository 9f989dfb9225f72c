"""Functions with hand-written gradients equal those that JAX derives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models import functions
from eomt_jax.models.kernels.depthwise import depthwise_conv3x3
from tests.models.dependencies import dependencies_of_results


def test_a_branch_goes_backward_when_the_trunk_has(rng):
    """Each gradient waits for both, and isn't changed."""
    x, branch = jnp.ones((2, 3)), {"masks": jnp.zeros((4,)), "classes": jnp.ones(())}
    out, vjp = jax.vjp(functions.backward_in_turn, x, branch)
    jax.tree.map(np.testing.assert_array_equal, out, (x, branch))
    gradients = jax.random.normal(rng, (2, 3)), jax.tree.map(jnp.cos, branch)
    jax.tree.map(np.testing.assert_array_equal, vjp(gradients), gradients)
    assert dependencies_of_results(vjp, gradients) == [{0, 1, 2}] * 3


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
    out, found = jax.vjp(lambda *args: functions.project(*args, num_axes), x, kernel)
    np.testing.assert_allclose(out, expected_out, atol=1e-5)
    for expected, of_project in zip(pull(gradient), found(gradient)):
        np.testing.assert_allclose(of_project, expected, atol=1e-5)
    # A CPU uses the first, and other platforms the second.
    for sums in (functions._sum_matrices, functions._sum_tokens):
        np.testing.assert_allclose(
            sums(x, gradient, num_axes=num_axes), pull(gradient)[1], atol=1e-5
        )


def test_gelu_and_its_gradient_are_the_exact_ones(rng):
    x = 3 * jax.random.normal(rng, (1000,))

    def results(gelu):
        return *jax.value_and_grad(lambda x: gelu(x).sum())(x), gelu(x)

    expected = results(functools.partial(jax.nn.gelu, approximate=False))
    for a, b in zip(results(functions.gelu), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    x = x.astype(jnp.bfloat16)
    assert jax.vjp(functions.gelu, x)[1](x)[0].dtype == jnp.bfloat16


def plain_norm(x, scale, bias):
    x = x.astype(jnp.float32)
    deviation = jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return (x - x.mean(-1, keepdims=True)) / deviation * scale + bias


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer_norm_has_the_gradients_of_its_formula(rng, dtype):
    keys = jax.random.split(rng, 4)
    x = (1 + 2 * jax.random.normal(keys[0], (2, 5, 16))).astype(dtype)
    scale, bias = 1 + 0.3 * jax.random.normal(keys[1], (2, 16))
    gradient = jax.random.normal(keys[2], x.shape)
    out, pull = jax.vjp(lambda *a: functions.layer_norm(*a, 1e-6), x, scale, bias)
    expected, expected_pull = jax.vjp(plain_norm, x, scale, bias)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for found, wanted in zip(pull(gradient), expected_pull(gradient), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(
            found.astype(jnp.float32),
            wanted.astype(jnp.float32),
            atol=1e-5,
            rtol=1e-5 if dtype == jnp.float32 else 0.01,
        )


def assert_same_gradients(function, other, *inputs, atol):
    """Compares outputs and gradients of two functions, for a varying gradient."""

    def results(function):
        out, vjp = jax.vjp(function, *inputs)
        weights = jnp.sin(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return out, *vjp(weights.astype(out.dtype))

    results = jax.jit(results, static_argnums=0)
    for a, b in zip(results(function), results(other), strict=True):
        np.testing.assert_allclose(a, b, atol=atol * np.abs(b).max())


def test_forms_for_a_gpu_have_the_same_results_and_gradients(rng):
    """Barriers keep a GPU's compiler from fusing, and don't change the numbers."""
    keys = jax.random.split(rng, 4)
    x = 3 * jax.random.normal(keys[0], (2, 5, 7, 6)) + 1
    kernel = jax.random.normal(keys[1], (3, 3, 6))
    scale, bias = jax.random.normal(keys[2], (2, 6))
    assert_same_gradients(
        lambda *args: depthwise_conv3x3(*args, True),
        depthwise_conv3x3,
        x,
        kernel,
        atol=1e-6,
    )
    assert_same_gradients(
        lambda *args: functions.layer_norm(*args, 1e-6, True),
        lambda *args: functions.layer_norm(*args, 1e-6),
        x,
        scale,
        bias,
        atol=1e-5,
    )


def test_product_of_a_gelu_has_the_gradients_of_both_layers(rng):
    x, kernel = jax.random.normal(rng, (2, 5, 6)), jax.random.normal(rng, (6, 4))
    assert_same_gradients(
        functions.project_gelu,
        lambda x, kernel: jax.nn.gelu(x, approximate=False) @ kernel,
        x,
        kernel,
        atol=1e-5,
    )
    _, vjp = jax.vjp(functions.project_gelu, x, kernel)
    assert sum(leaf.size for leaf in jax.tree.leaves(vjp)) <= x.size + kernel.size

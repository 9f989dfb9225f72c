import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eomt_jax.training import moments

OPTIONS = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


def test_rounding_takes_a_neighbour_and_is_right_on_average(rng):
    x = jnp.float32(1 + 0.3 / 128)  # between 1 and the next, a 128th away
    rounded = moments.round_at_random(rng, jnp.full(20_000, x)).astype(jnp.float32)
    assert set(np.unique(rounded)) == {1.0, 1 + 1 / 128}
    # Three standard deviations of 20,000 draws are a hundredth of the last place.
    assert abs(float(rounded.mean()) - x) < 0.01 / 128
    values = jnp.array([0.0, -1.0, 1.5, jnp.inf, jnp.nan])
    rounded = moments.round_at_random(rng, values).astype(jnp.float32)
    np.testing.assert_array_equal(rounded, values)


def run(dtype, grads):
    tx = moments.scale_by_adam(**OPTIONS, moments_dtype=dtype)
    params = jnp.zeros(grads.shape[1:])

    def step(state, grad):
        updates, state = tx.update(grad, state, params)
        return state, updates

    return jax.jit(lambda: jax.lax.scan(step, tx.init(params), grads))()


def test_second_moment_follows_gradients_that_shrink(rng):
    """Rounded to the nearest number, it would not change."""
    grads = jax.random.normal(rng, (1500, 512))
    grads = jnp.concatenate([grads[:500], 0.1 * grads[500:]])
    whole, _ = run("float32", grads)
    half, _ = run("bfloat16", grads)
    assert half.mu.dtype == half.nu.dtype == jnp.bfloat16
    whole, half = whole.nu.mean(), half.nu.astype(jnp.float32).mean()
    assert whole < 0.2  # from 0.4 at step 500
    np.testing.assert_allclose(half, whole, rtol=0.02)


def test_first_updates_are_float32s_to_bfloat16s_precision(rng):
    grads = jax.random.normal(rng, (10, 64))
    _, whole = run("float32", grads)
    _, half = run("bfloat16", grads)
    np.testing.assert_array_equal(half[0], whole[0])  # nothing was stored yet
    np.testing.assert_allclose(half, whole, atol=0.03)
    assert not np.array_equal(half[1:], whole[1:])


def test_float32_is_optax_itself(rng):
    grads = jax.random.normal(rng, (5, 8))
    tx = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    state = tx.init(jnp.zeros(8))
    for grad, update in zip(grads, run("float32", grads)[1]):
        expected, state = tx.update(grad, state)
        np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_unknown_dtype_raises():
    with pytest.raises(ValueError, match="moments_dtype = 'float16': there are"):
        moments.scale_by_adam(**OPTIONS, moments_dtype="float16")

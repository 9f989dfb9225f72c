"""Mask losses equal numbers by hand, and the right points are chosen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.losses import mask_losses
from eomt_jax.ops.points import sample_each


def test_losses_by_hand():
    logits, targets = jnp.zeros((1, 4)), jnp.array([[1.0, 1.0, 0.0, 0.0]])
    weights = jnp.ones((1, 4))
    bce = mask_losses.binary_cross_entropy(logits, targets, weights)
    np.testing.assert_allclose(bce, [np.log(2)], rtol=1e-6)
    # 1 − (2·1 + 1) / (2 + 2 + 1)
    np.testing.assert_allclose(mask_losses.dice(logits, targets, weights), [0.4])


def test_points_of_weight_0_do_not_count(rng):
    logits = jax.random.normal(rng, (2, 6))
    targets = (logits > 0.3).astype(jnp.float32)
    weights = jnp.array([[1.0, 1, 1, 0, 0, 0]] * 2)
    for loss in (mask_losses.binary_cross_entropy, mask_losses.dice):
        np.testing.assert_allclose(
            loss(logits, targets, weights),
            loss(logits[:, :3], targets[:, :3], jnp.ones((2, 3))),
            rtol=1e-6,
        )


@pytest.mark.parametrize("num_points", [50, 96])
@pytest.mark.parametrize("scale", [3, 100])
def test_pairwise_costs_equal_the_losses_of_each_pair(rng, num_points, scale):
    logits = scale * jax.random.normal(rng, (num_points, 4))
    targets = jax.random.uniform(jax.random.key(1), (num_points, 3))
    bce, dice = mask_losses.pairwise_costs(logits, targets)
    ones = jnp.ones(num_points)
    for q in range(4):
        for t in range(3):
            pair = (logits[:, q], targets[:, t], ones)
            expected = mask_losses.binary_cross_entropy(*pair)
            np.testing.assert_allclose(bce[q, t], expected, rtol=1e-5)
            np.testing.assert_allclose(
                dice[q, t], mask_losses.dice(*pair), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("count", [1, 7, 100])
def test_smallest_weights_are_those_that_sorting_finds(count):
    values = np.random.default_rng(0).exponential(size=(5, 100)).astype(np.float32)
    values[0, :3] = [0.0, 1e-30, 1e30]
    found = mask_losses.smallest_weights(jnp.asarray(values), count)
    expected = np.zeros_like(values)
    order = np.argsort(values, axis=-1)[:, :count]
    np.put_along_axis(expected, order, 1.0, axis=-1)
    np.testing.assert_array_equal(found, expected)


def test_ties_for_the_last_places_share_them():
    values = jnp.array([[5.0, 1.0, 5.0, 5.0, 9.0]])
    found = mask_losses.smallest_weights(values, 3)
    np.testing.assert_allclose(found, [[2 / 3, 1, 2 / 3, 2 / 3, 0]], rtol=1e-6)


def test_uncertain_points_lie_where_the_logits_change_sign(rng):
    ramp = jnp.linspace(-8, 8, 64)
    logits = jnp.broadcast_to(ramp, (2, 64, 64))
    choose = functools.partial(
        mask_losses.uncertain_points,
        num_points=64,
        oversample_ratio=3.0,
        importance_ratio=0.75,
    )
    points, sampled, weights = jax.jit(choose)(jax.random.split(rng, 2), logits)
    assert points.shape == (2, 192 + 16, 2)
    np.testing.assert_array_equal(sampled, sample_each(logits, points))
    np.testing.assert_allclose(weights.sum(-1), 64)
    np.testing.assert_array_equal(weights[:, 192:], 1)
    for distance, kept in zip(np.abs(points[:, :192, 1] - 0.5), weights[:, :192] == 1):
        assert distance[kept].max() < distance[~kept].min()

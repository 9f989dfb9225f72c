"""Sampling equals numbers by hand; tests/parity compares it with torch."""

import jax.numpy as jnp
import numpy as np

from eomt_jax.ops import points

MAP = jnp.array([[0.0, 1.0], [2.0, 3.0]])


def test_pixel_centres_middle_and_corner_by_hand():
    # At the map's corner three of the four pixels are outside, so a quarter is left.
    at = jnp.array([[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [1.0, 1.0], [0.0, 0.5]])
    found = points.sample_each(MAP[None], at[None])[0]
    np.testing.assert_allclose(found, [0.0, 2.0, 1.5, 0.75, 0.25])


def test_shared_points_equal_points_of_each_map():
    rng = np.random.default_rng(0)
    maps = jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32)
    at = jnp.asarray(rng.uniform(size=(11, 2)), jnp.float32)
    shared = points.sample_shared(maps, at)
    each = points.sample_each(maps, jnp.broadcast_to(at, (3, 11, 2)))
    np.testing.assert_allclose(shared.T, each, atol=1e-6)

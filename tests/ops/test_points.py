"""Sampling worked out by hand; against torch in tests/parity."""

import jax.numpy as jnp
import numpy as np

from eomt_jax.ops import points, target_masks
from eomt_jax.ops.resize import bilinear_matrix, bilinear_resize

MAP = jnp.array([[0.0, 1.0], [2.0, 3.0]])


def test_pixel_centres_middle_and_corner_by_hand():
    # A corner of the map is half a pixel outside: only a quarter of the weight is in.
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


def test_targets_from_ids_equal_sampled_masks():
    rng = np.random.default_rng(1)
    id_maps = rng.integers(0, 4, (2, 6, 5)).astype(np.uint8)
    masks = (id_maps[:, None] == np.arange(1, 4)[:, None, None]).astype(np.float32)
    at = jnp.asarray(rng.uniform(size=(13, 2)), jnp.float32)
    found = target_masks.sample_all(jnp.asarray(id_maps[0]), at, num_targets=3)
    expected = points.sample_shared(jnp.asarray(masks[0]), at)
    np.testing.assert_allclose(found, expected, atol=1e-6)

    image, target = jnp.array([1, 0, 1]), jnp.array([2, 0, 1])
    own = jnp.asarray(rng.uniform(size=(3, 13, 2)), jnp.float32)
    found = target_masks.sample_each(
        jnp.asarray(id_maps), own, image=image, target=target
    )
    expected = points.sample_each(jnp.asarray(masks[image, target]), own)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_bilinear_matrix_by_hand():
    np.testing.assert_allclose(
        bilinear_matrix(2, 4),
        [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]],
    )
    # Shrinking does not antialias: the middle two of four pixels alone.
    np.testing.assert_allclose(bilinear_matrix(4, 1), [[0, 0.5, 0.5, 0]])


def test_resize_takes_rows_and_columns_apart():
    x = jnp.arange(6.0).reshape(1, 2, 3)
    np.testing.assert_allclose(bilinear_resize(x, (1, 3)), [[[1.5, 2.5, 3.5]]])

"""Bilinear weights equal numbers by hand and, for small sizes, JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.ops.resize import (
    bilinear_resize,
    bilinear_resize_maps,
    interpolation_matrix,
)


@pytest.mark.parametrize(
    ("in_size", "out_size", "expected"),
    [
        (2, 4, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]),
        # Shrinking does not antialias, so only the middle two of four pixels count.
        (4, 1, [[0, 0.5, 0.5, 0]]),
    ],
)
def test_interpolation_matrix_by_hand(in_size, out_size, expected):
    matrix = interpolation_matrix(
        in_size, out_size, num_rows=out_size, num_columns=in_size
    )
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize(("in_size", "out_size"), [(3, 7), (7, 3), (5, 5), (1, 4)])
def test_interpolation_matrix_equals_jax_image(in_size, out_size):
    matrix = interpolation_matrix(
        in_size, jnp.array(out_size), num_rows=9, num_columns=8
    )
    expected = jax.image.resize(
        jnp.eye(in_size), (out_size, in_size), "linear", antialias=False
    )
    np.testing.assert_allclose(matrix[:out_size, :in_size], expected, atol=1e-6)
    assert not matrix[:, in_size:].any()
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)


def test_interpolation_matrix_traced_sizes_give_the_same_weights():
    arguments = {"num_rows": 427, "num_columns": 640}
    static = interpolation_matrix(640, 427, **arguments)
    traced = interpolation_matrix(jnp.array(640), jnp.array(427), **arguments)
    np.testing.assert_allclose(traced, static, atol=1e-7)


def test_resize_takes_rows_and_columns_apart():
    x = jnp.arange(6.0).reshape(1, 2, 3)
    np.testing.assert_allclose(bilinear_resize(x, (1, 3)), [[[1.5, 2.5, 3.5]]])


def test_resizing_maps_resizes_each_channel():
    first = jnp.arange(6.0).reshape(1, 2, 3)
    maps = jnp.stack([first, 10 - first], axis=-1)
    expected = [[1.5, 2.5, 3.5], [8.5, 7.5, 6.5]]
    np.testing.assert_allclose(
        bilinear_resize_maps(maps, (1, 3))[0, 0], np.transpose(expected)
    )
    np.testing.assert_array_equal(bilinear_resize_maps(maps, (2, 3)), maps)

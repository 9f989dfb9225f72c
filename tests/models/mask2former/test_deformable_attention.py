"""Deformable attention of maps that can be computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models.mask2former.deformable_attention import (
    DeformableAttention,
    deformable_attention,
    pixel_centers,
)
from eomt_jax.parallel.platform import Platform, tracing_for

SIZES = ((2, 3), (1, 1))
# A map of 2 rows and 3 columns, and a map of a single pixel.
MAPS = jnp.array([1.0, 2, 4, 8, 16, 32, 100]).reshape(1, 7, 1, 1)
# On the first map: pixel (row 1, column 2), and the middle of the four pixels on the
# left; on the second: its pixel, and half a pixel outside of it.
POINTS = jnp.array([[[5 / 6, 3 / 4], [1 / 3, 1 / 2]], [[0.5, 0.5], [1.0, 0.5]]])
WEIGHTS = jnp.array([[0.5, 0.25], [0.125, 0.25]])
EXPECTED = 0.5 * 32 + 0.25 * (1 + 2 + 8 + 16) / 4 + 0.125 * 100 + 0.25 * 50


every_platform = pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])


def attend(maps=MAPS, points=POINTS, weights=WEIGHTS):
    """Returns the result of one query with one head."""
    return deformable_attention(
        maps, points[None, None, None], weights[None, None, None], SIZES
    )[0, 0, 0, 0]


@every_platform
def test_deformable_attention_reads_bilinearly_and_zero_outside(platform):
    with tracing_for(Platform(platform)):
        np.testing.assert_allclose(attend(), EXPECTED, rtol=1e-6)


@every_platform
def test_deformable_attention_gradients_equal_hand_computed_ones(platform):
    gradient = jax.jit(jax.grad(lambda *arrays: attend(*arrays), (0, 1, 2)))
    with tracing_for(Platform(platform)):
        of_maps, of_points, of_weights = gradient(MAPS, POINTS, WEIGHTS)
    quarter = 0.25 / 4
    expected = [quarter, quarter, 0, quarter, quarter, 0.5, 0.125 + 0.25 / 2]
    np.testing.assert_allclose(of_maps.reshape(-1), expected, atol=1e-6)
    np.testing.assert_allclose(of_weights, [[32, 27 / 4], [100, 50]], rtol=1e-6)
    # A step of 1 / 3 in x, or of 1 / 2 in y, moves by a pixel.
    step_x, step_y = (2 + 16 - 1 - 8) / 2, (8 + 16 - 1 - 2) / 2
    np.testing.assert_allclose(
        of_points[0, 1], [0.25 * 3 * step_x, 0.25 * 2 * step_y], rtol=1e-6
    )
    # The others lie on a row of pixels, where the gradient in y is not defined.
    np.testing.assert_allclose(of_points[1, 1, 0], 0.25 * -100, rtol=1e-6)


@every_platform
def test_deformable_attention_bfloat16_places_points_in_float32(platform):
    # bfloat16 has no number between 0.996 and 1: the point would leave the map.
    size = (1, 300)
    maps = jnp.arange(300.0, dtype=jnp.bfloat16).at[299].set(512).reshape(1, 300, 1, 1)
    point = jnp.array([299.5 / 300, 0.5]).reshape(1, 1, 1, 1, 1, 2)
    with tracing_for(Platform(platform)):
        found = deformable_attention(maps, point, jnp.ones((1, 1, 1, 1, 1)), (size,))
    assert found.dtype == jnp.bfloat16
    assert found.item() == 512


def test_pixel_centers_are_x_and_y_row_by_row():
    np.testing.assert_allclose(
        pixel_centers((1, 2)), [[0.25, 0.5], [0.75, 0.5]], rtol=1e-6
    )


def test_fresh_layer_looks_in_a_direction_for_each_head(rng):
    layer = DeformableAttention(4, num_points=2, value_ratio=0.5)
    query, features = jnp.ones((1, 2, 16)), jnp.ones((1, 7, 16))
    points = pixel_centers((1, 2))

    @jax.jit
    def init():
        return layer.init(
            rng, query, features, reference_points=points, level_sizes=SIZES
        )["params"]

    params = init()
    assert params["value"]["kernel"].shape == (16, 8)
    assert params["out"]["kernel"].shape == (8, 16)
    assert 0.3 < np.abs(params["value"]["kernel"]).max() <= (6 / 24) ** 0.5
    assert params["weights"]["kernel"].shape == (16, 4 * 2 * 2)
    for name in ("offsets", "weights"):
        assert not params[name]["kernel"].any()
    assert not params["weights"]["bias"].any()
    offsets = params["offsets"]["bias"].reshape(4, 2, 2, 2)
    directions = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    for level in range(2):
        for point in range(2):
            np.testing.assert_allclose(
                offsets[:, level, point], directions * (point + 1), atol=1e-6
            )

"""Sine positions of a map that can be computed by hand."""

import math

import numpy as np

from eomt_jax.models.mask2former.positions import sine_positions


def test_sine_positions_rows_before_columns():
    found = sine_positions((1, 2), 8)
    assert found.shape == (1, 2, 8) and found.dtype == np.float32
    # Coordinates are π and 2π in a row of two, and the second wave is 100 times slower.
    row = [0, 1, math.sin(0.02 * math.pi), math.cos(0.02 * math.pi)]
    first = [0, -1, math.sin(0.01 * math.pi), math.cos(0.01 * math.pi)]
    np.testing.assert_allclose(found[0], [[*row, *first], [*row, *row]], atol=1e-5)

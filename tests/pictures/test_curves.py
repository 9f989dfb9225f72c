import numpy as np
import pytest

from eomt_jax.pictures import curves
from eomt_jax.pictures.curves import COLORS, Line, Panel, draw_curves


def find(picture, color):
    """Returns rows and columns of the pixels that have almost this colour."""
    near = np.abs(picture.astype(int) - color).max(-1) < 30
    return np.nonzero(near)


def test_each_line_has_its_color_in_all_panels_and_below():
    rising = Line("a", np.array([0.0, 100.0]), np.array([0.0, 10.0]))
    level = Line("b", np.array([0.0, 50.0]), np.array([5.0, 5.0]))
    panels = [Panel("One", [rising, level]), Panel("Two", [level])]
    picture = draw_curves(panels, ["a", "b"])
    assert picture.shape == (2 * 440 + 2 * 26 + 16, 960, 3)
    rows, columns = find(picture[:440], COLORS[0])
    # It ends at the right border, above where it begins at the left.
    assert abs(columns.min() - 67) < 8 and abs(columns.max() - 941) < 8
    assert rows[columns.argmax()] < rows[columns.argmin()] - 200
    rows, columns = find(picture[:440], COLORS[1])
    assert np.ptp(rows) < 10  # twice the radius of a point
    assert abs(columns.max() - (67 + 941) / 2) < 8
    assert len(find(picture[440:880], COLORS[0])[0]) == 0
    assert len(find(picture[440:880], COLORS[1])[0]) > 400
    assert len(find(picture[880:], COLORS[0])[0]) > 50


@pytest.mark.parametrize(
    "values, expected",
    [
        ([10.0, 2.0], (0.0, 11.0)),
        ([40.0, 50.0], (39.0, 51.0)),
        ([0.0], (0.0, 1.0)),
        ([5.0], (4.5, 5.5)),
        ([-1.0, 1.0], (-1.2, 1.2)),
    ],
)
def test_axis_begins_at_zero_unless_all_values_are_far_from_it(values, expected):
    assert curves._limits(np.array(values)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.0, 11.0, [0, 2, 4, 6, 8, 10]),
        (39.0, 51.0, [40, 42, 44, 46, 48, 50]),
        (-1.2, 1.2, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    np.testing.assert_allclose(curves._ticks(low, high), expected, atol=1e-9)

import numpy as np
import pytest

from eomt_jax import class_colors, oklab
from eomt_jax.pictures.palette import segment_colors
from eomt_jax.types import ClassInfo


def least_distance(rgb):
    """Returns the least distance in OKLab of any two colours, given as 0 to 255."""
    lab = oklab.rgb_to_lab(np.asarray(rgb) / 255)
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return apart[~np.eye(len(lab), dtype=bool)].min()


@pytest.mark.parametrize(("count", "distance"), [(20, 0.08), (60, 0.04)])
def test_distinct_color_of_the_first_classes_are_far_apart(count, distance):
    """It holds in class tables and pictures; hues by the golden ratio had 0.005."""
    colors = [class_colors.distinct_color(i) for i in range(count)]
    assert least_distance(colors) > distance
    for is_thing in ([True], [False], [True, False], [True, True, False]):
        rows = [
            ClassInfo(i, str(i), is_thing[i % len(is_thing)], color)
            for i, color in enumerate(colors)
        ]
        assert least_distance(segment_colors(rows)) > distance


def test_distinct_color_depends_on_the_number_alone():
    """Prepared datasets and converted weights must have the same colours."""
    class_colors._distinct_colors.cache_clear()
    later = class_colors.distinct_color(70)
    first = [class_colors.distinct_color(i) for i in (0, 1, 2)]
    assert first == [(238, 51, 51), (34, 238, 136), (0, 119, 204)]
    assert later == class_colors.distinct_color(70)
    assert later not in [class_colors.distinct_color(i) for i in range(70)]
    assert class_colors.distinct_color(1024 + 70) == later

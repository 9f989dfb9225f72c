import numpy as np
import pytest

from eomt_jax import dataset_info
from eomt_jax.inference import palette
from eomt_jax.types import ClassInfo


def test_lch_of_known_colours():
    """White, and red as the colour space's author gives them."""
    white = palette._to_lch(np.ones(3))
    assert white[:2] == pytest.approx((1.0, 0.0), abs=1e-4)
    red = palette._to_lch(np.array([1.0, 0.0, 0.0]))
    assert red == pytest.approx((0.62796, 0.25768, np.radians(29.23)), abs=1e-3)


@pytest.mark.parametrize("rgb", [(0.2, 0.5, 0.9), (0.0, 0.0, 0.0), (0.9, 0.1, 0.4)])
def test_rgb_and_back(rgb):
    there = palette._to_lch(np.array(rgb))
    np.testing.assert_allclose(palette._to_rgb(*there), rgb, atol=1e-4)


def test_rgb_of_a_colour_that_no_screen_has():
    rgb = palette._to_rgb(0.7, 0.4, 2.0)
    assert (rgb >= 0).all() and (rgb <= 1).all()
    lightness, chroma, hue = palette._to_lch(rgb)
    assert (lightness, hue) == pytest.approx((0.7, 2.0), abs=0.02)
    assert 0.1 < chroma < 0.4


@pytest.mark.parametrize("name", dataset_info.available())
def test_segment_colors_of_published_classes_are_light_enough(name):
    rows = dataset_info.load_classes(name)
    for row, color in zip(rows, palette.segment_colors(rows), strict=True):
        lightness, chroma, hue = palette._to_lch(color / 255)
        assert 0.5 < lightness < 0.83
        assert not row.is_thing or chroma > 0.07, "a thing is never grey"
        _, class_chroma, class_hue = palette._to_lch(np.array(row.color) / 255)
        if class_chroma > palette._GREY:
            assert np.cos(hue - class_hue) > 0.99, "its class's own hue"


def test_segment_colors_stuff_looks_alike_and_things_do_not():
    sky = ClassInfo(1, "sky", False, (70, 130, 180))
    person = ClassInfo(2, "person", True, (220, 20, 60))
    colors = palette.segment_colors([sky, *[person] * 8, sky]).astype(int)
    np.testing.assert_array_equal(colors[0], colors[-1])
    people = colors[1:-1]
    apart = np.abs(people[:, None] - people).max(-1)
    assert apart[~np.eye(8, dtype=bool)].min() > 15
    assert palette.segment_colors([]).shape == (0, 3)

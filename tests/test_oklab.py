import numpy as np
import pytest

from eomt_jax import oklab


def test_lch_of_known_colours():
    """The values of white and red are those of the colour space's author."""
    white, red = oklab.rgb_to_lch(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    assert white[:2] == pytest.approx((1.0, 0.0), abs=1e-4)
    assert red == pytest.approx((0.62796, 0.25768, np.radians(29.23)), abs=1e-3)


def test_rgb_and_back():
    rgb = np.array([(0.2, 0.5, 0.9), (0.0, 0.0, 0.0), (0.9, 0.1, 0.4)])
    np.testing.assert_allclose(oklab.lch_to_rgb(oklab.rgb_to_lch(rgb)), rgb, atol=1e-4)


def test_rgb_of_a_colour_that_no_screen_has():
    """It loses chroma, and a colour beside it that a screen has loses none."""
    rgb = oklab.lch_to_rgb(np.array([(0.7, 0.4, 2.0), (0.7, 0.1, 2.0)]))
    assert (rgb >= 0).all() and (rgb <= 1).all()
    (lightness, chroma, hue), beside = oklab.rgb_to_lch(rgb)
    assert (lightness, hue) == pytest.approx((0.7, 2.0), abs=0.02)
    assert 0.1 < chroma < 0.4
    assert beside == pytest.approx((0.7, 0.1, 2.0), abs=1e-3)

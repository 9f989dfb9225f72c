"""Colour jitter equals values worked out by hand and Python's colorsys."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from eomt_jax.pipeline import color


def changed(change, image, *how):
    """Returns a uint8 array [H, W, 3] after a change."""
    return np.asarray(change(Image.fromarray(image), *how))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)


def test_adjust_brightness_cuts_the_fraction_off_and_clips():
    image = np.array([[[3, 100, 255]]], np.uint8)
    np.testing.assert_array_equal(
        changed(color.adjust_brightness, image, 1.5), [[[4, 150, 255]]]
    )
    np.testing.assert_array_equal(
        changed(color.adjust_brightness, image, 0.5), [[[1, 50, 127]]]
    )


def test_adjust_contrast_pulls_towards_the_mean_of_whole_numbered_greys():
    # The greys are floor(0.9999 · 200) = 199 and floor(0.9999 · 101) = 100; their mean
    # is 149.5.
    image = np.array([[[200] * 3, [101] * 3]], np.uint8)
    expected = [[[int(0.5 * 200 + 74.75)] * 3, [int(0.5 * 101 + 74.75)] * 3]]
    np.testing.assert_array_equal(changed(color.adjust_contrast, image, 0.5), expected)


def test_adjust_saturation_to_nothing_leaves_grey():
    # 0.2989 · 100 + 0.587 · 50 + 0.114 · 200 = 82.04
    image = np.array([[[100, 50, 200]]], np.uint8)
    np.testing.assert_array_equal(
        changed(color.adjust_saturation, image, 0.0), [[[82] * 3]]
    )
    expected = [[[1.5 * 100 - 41, 1.5 * 50 - 41, 255]]]
    np.testing.assert_array_equal(
        changed(color.adjust_saturation, image, 1.5), expected
    )


@pytest.mark.parametrize("shift", [-0.5, -0.05, 0.0, 0.02, 0.05, 0.5])
def test_adjust_hue_turns_the_hue_as_colorsys_does(image, shift):
    turned = changed(color.adjust_hue, image, shift)
    for pixel, result in zip(image[0], turned[0], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
        # Values are stretched a little before the fraction is cut off, so 1 less is
        # right too.
        difference = np.array(expected) * 255.999 - result
        assert (difference > -1e-2).all() and (difference < 1 + 1e-2).all()


def test_adjust_hue_keeps_greys_and_every_value(image):
    gray = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=-1)
    np.testing.assert_array_equal(changed(color.adjust_hue, gray, 0.05), gray)
    turned = changed(color.adjust_hue, image, 0.05)
    np.testing.assert_array_equal(turned.max(-1), image.max(-1))


def test_strips_change_nothing(image, monkeypatch):
    jitter = color.ColorJitter(1.1, 0.7, 1.4, 0.04)
    small = changed(color.jitter_color, image, jitter)
    monkeypatch.setattr(color, "_STRIP_PIXELS", 1 << 30)
    np.testing.assert_array_equal(small, changed(color.jitter_color, image, jitter))


def test_jitter_color_applies_contrast_where_the_coin_says(image):
    first = changed(
        color.jitter_color,
        image,
        color.ColorJitter(None, 0.6, 1.4, None, contrast_first=True),
    )
    last = changed(
        color.jitter_color,
        image,
        color.ColorJitter(None, 0.6, 1.4, None, contrast_first=False),
    )
    np.testing.assert_array_equal(
        first,
        changed(
            color.adjust_saturation, changed(color.adjust_contrast, image, 0.6), 1.4
        ),
    )
    np.testing.assert_array_equal(
        last,
        changed(
            color.adjust_contrast, changed(color.adjust_saturation, image, 1.4), 0.6
        ),
    )
    assert (first != last).any()


def test_draw_color_jitter_has_the_published_ranges_and_probabilities():
    rng = np.random.default_rng(0)
    drawn = [color.draw_color_jitter(rng) for _ in range(2000)]
    ranges = {
        "brightness": (1 - 32 / 255, 1 + 32 / 255),
        "contrast": (0.5, 1.5),
        "saturation": (0.5, 1.5),
        "hue": (-18 / 360, 18 / 360),
    }
    for name, (low, high) in ranges.items():
        values = [getattr(d, name) for d in drawn if getattr(d, name) is not None]
        assert len(values) / len(drawn) == pytest.approx(0.5, abs=0.04)
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high >= max(values) > high - 0.02 * (high - low)
    first = np.mean([d.contrast_first for d in drawn])
    assert first == pytest.approx(0.5, abs=0.04)

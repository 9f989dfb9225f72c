"""Ten thousand draws have the distributions of the method."""

import numpy as np
import pytest
import scipy.stats

from eomt_jax.pipeline import color, transforms

NUM_DRAWS = 5_000
# The seed is fixed, so the tests don't depend on chance. A wrong distribution has
# 1e-50.
SMALLEST_P = 1e-3


def assert_uniform(values, low, high):
    test = scipy.stats.kstest(values, "uniform", args=(low, high - low))
    assert test.pvalue > SMALLEST_P


def assert_coin(flips):
    heads = scipy.stats.binomtest(int(np.sum(flips)), len(flips), 0.5)
    assert heads.pvalue > SMALLEST_P


def assert_unrelated(one, other):
    assert scipy.stats.spearmanr(one, other).pvalue > SMALLEST_P


@pytest.mark.parametrize("scale_range", [(0.1, 2.0), (0.5, 2.0)])
def test_geometry_follows_the_published_distributions(scale_range):
    rng = np.random.default_rng(0)
    # The sizes are so large that rounding to pixels doesn't change a distribution.
    height, width, crop_size = 60_000, 80_000, 40_000
    drawn = [
        transforms.draw_geometry(
            rng, (height, width), crop_size=crop_size, scale_range=scale_range
        )
        for _ in range(NUM_DRAWS)
    ]
    flips = np.array([g.flip for g in drawn])
    sizes = np.array([g.resized for g in drawn])
    offsets = np.array([g.offset for g in drawn])

    assert_coin(flips)
    scales = sizes[:, 1] / (width * min(crop_size / height, crop_size / width))
    assert_uniform(scales, *scale_range)
    np.testing.assert_allclose(sizes[:, 0] / sizes[:, 1], height / width, rtol=1e-3)
    for side in range(2):
        room = sizes[:, side] - crop_size
        assert (offsets[room <= 0, side] == 0).all()
        larger = room > 0
        assert larger.any() and (offsets[larger, side] <= room[larger]).all()
        assert_uniform(offsets[larger, side] / room[larger], 0, 1)
        assert_unrelated(offsets[larger, side], flips[larger])
    assert_unrelated(scales, flips)
    both = (sizes > crop_size).all(axis=1)
    places = offsets[both] / (sizes[both] - crop_size)
    assert_unrelated(places[:, 0], places[:, 1])


def test_color_jitter_follows_the_published_distributions():
    rng = np.random.default_rng(1)
    drawn = [color.draw_color_jitter(rng) for _ in range(NUM_DRAWS)]
    ranges = {
        "brightness": (1 - 32 / 255, 1 + 32 / 255),
        "contrast": (0.5, 1.5),
        "saturation": (0.5, 1.5),
        "hue": (-18 / 360, 18 / 360),
    }
    changed = {name: [getattr(d, name) is not None for d in drawn] for name in ranges}
    for name, (low, high) in ranges.items():
        assert_coin(changed[name])
        values = [getattr(d, name) for d in drawn if getattr(d, name) is not None]
        assert_uniform(values, low, high)
    assert_coin([d.contrast_first for d in drawn])
    assert_unrelated(changed["brightness"], changed["contrast"])
    assert_unrelated(changed["saturation"], changed["hue"])


def test_every_whole_offset_of_a_small_crop_is_as_likely():
    rng = np.random.default_rng(2)
    offsets = [
        transforms.draw_geometry(
            rng, (12, 12), crop_size=8, scale_range=(1.5, 1.5)
        ).offset
        for _ in range(NUM_DRAWS)
    ]
    counts = np.zeros((5, 5), int)
    np.add.at(counts, tuple(np.transpose(offsets)), 1)
    assert scipy.stats.chisquare(counts.ravel()).pvalue > SMALLEST_P

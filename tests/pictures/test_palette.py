import numpy as np
import pytest

from eomt_jax import class_colors, dataset_info, oklab
from eomt_jax.pictures import palette
from eomt_jax.types import ClassInfo


@pytest.mark.parametrize("name", dataset_info.available())
def test_segment_colors_of_published_classes_are_light_enough(name):
    rows = dataset_info.load_classes(name)
    for row, color in zip(rows, palette.segment_colors(rows), strict=True):
        lightness, chroma, hue = oklab.rgb_to_lch(color / 255)
        assert 0.5 < lightness < 0.83
        assert not row.is_thing or chroma > 0.07, "a thing is never grey"
        _, class_chroma, class_hue = oklab.rgb_to_lch(np.array(row.color) / 255)
        if class_chroma > class_colors._GREY:
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

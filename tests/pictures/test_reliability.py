import numpy as np

from eomt_jax.pictures.reliability import draw_reliability

BAR, GAP = [33, 97, 164], [240, 112, 53]


def test_bars_are_as_high_as_the_share_of_right_pixels():
    # The second bin is sure by 0.75 and right by 0.25, and the first has no pixel.
    picture = draw_reliability([0, 8], [0, 2], [0.0, 6.0], title="mine, test")
    column = picture[44 : 44 + 450, 64 + 300]
    is_bar, is_gap = (column == BAR).all(1), (column == GAP).all(1)
    assert is_bar[-110:].all()
    assert is_bar.sum() < 120
    assert 200 < is_gap.sum() <= 226
    assert not (picture[:, 64 + 100] == BAR).all(1).any()


def test_long_titles_fit():
    picture = draw_reliability([1], [1], [0.9], title="a dataset of a long name, " * 2)
    assert (picture[:, -3:] == 255).all()
    assert picture.dtype == np.uint8

import numpy as np
import pytest

from eomt_jax.pictures.outlines import outline_segments
from eomt_jax.postprocess.segmentation import Segmentation


def outline(id_map, **options):
    count = int(id_map.max())
    segmentation = Segmentation(labels=np.zeros(count, int), id_map=id_map)
    options = {"grid": id_map.shape, "line_width": 2.0} | options
    return outline_segments(segmentation, np.arange(count), **options)


def test_outline_segments_lines_are_as_wide_as_asked():
    id_map = np.ones((60, 80), int)
    id_map[:, 40:] = 2
    for width in (0.0, 1.5, 3.0, 8.0):
        outlined = outline(id_map, line_width=width)
        drawn = outlined.lines.sum(1) / 255
        np.testing.assert_allclose(drawn, width, atol=0.2)
        np.testing.assert_array_equal(outlined.index, id_map - 1)
        middle = outlined.lines @ (np.arange(80) + 0.5)
        if width:
            middle = middle / outlined.lines.sum(1)
            np.testing.assert_allclose(middle, 40, atol=0.05)


def test_outline_segments_of_a_disc_are_smooth():
    """The line is on the circle and equally strong in every direction."""
    y, x = np.mgrid[:80, :80] - 39.5
    disc = (np.hypot(y, x) < 28).astype(int)
    for enlarged in (1, 4):
        side = 80 * enlarged
        outlined = outline(disc, grid=(side, side), line_width=3.0)
        radius = np.hypot(*(np.mgrid[:side, :side] - (side - 1) / 2))
        angle = np.arctan2(*(np.mgrid[:side, :side] - (side - 1) / 2))
        near = np.abs(radius - 28 * enlarged) < 8
        sector = np.digitize(angle, np.linspace(-np.pi, np.pi, 33)) - 1
        weights = outlined.lines * near
        per_sector = np.bincount(sector.ravel(), weights.ravel(), 33)[:32]
        length = 2 * np.pi * 28 * enlarged / 32
        np.testing.assert_allclose(per_sector / 255 / length, 3.0, rtol=0.25)
        mean_radius = (weights * radius).sum() / weights.sum()
        assert mean_radius == pytest.approx(28 * enlarged, rel=0.02)


def test_outline_segments_three_meet_without_a_blot():
    id_map = np.ones((60, 60), int)
    id_map[:30, 30:], id_map[30:, 30:] = 2, 3
    lines = outline(id_map).lines
    assert lines[25:36, 25:30].sum() < lines[5:16, 25:30].sum() * 1.6
    assert set(np.unique(outline(id_map).index)) == {0, 1, 2}


def test_outline_segments_only_those_shown():
    id_map = np.repeat([1, 2, 0, 3], 20)[None].repeat(40, 0)
    segmentation = Segmentation(labels=np.zeros(3, int), id_map=id_map)
    outlined = outline_segments(
        segmentation, np.array([0, 2]), grid=(40, 80), line_width=2.0
    )
    shown = np.repeat([0, -1, -1, 2], 20)
    np.testing.assert_array_equal(outlined.index[20], shown)
    masks = np.stack([id_map == i for i in (1, 2, 3)])
    overlapping = Segmentation(labels=np.zeros(3, int), masks=masks)
    outlined = outline_segments(
        overlapping, np.array([0, 2]), grid=(40, 80), line_width=2.0
    )
    np.testing.assert_array_equal(outlined.index[20], shown)


def test_outline_segments_specks_have_no_outline_but_small_objects_do():
    id_map = np.ones((200, 300), int)
    id_map[:, 200:] = 2
    id_map[50:54, 50:54] = 2  # an island of 16 pixels
    id_map[100:103, 100:104] = 0  # a gap
    id_map[150:154, 50:54] = 3  # small, but a segment of its own
    outlined = outline(id_map)
    for y, x in ((50, 50), (100, 100)):
        assert not outlined.lines[y - 5 : y + 10, x - 5 : x + 10].any()
    assert outlined.lines[145:160, 45:60].max() > 200
    assert outlined.lines[:, 195:205].max(1).min() > 200
    assert outlined.index[51, 51] == 1, "the island keeps its colour"


def test_outline_segments_a_speck_on_a_border_leaves_the_border():
    id_map = np.ones((200, 300), int)
    id_map[:, 150:] = 2
    id_map[90:95, 147:152] = 0
    assert outline(id_map).lines[:, 144:156].max(1).min() > 150


def test_outline_segments_nothing_to_see():
    nothing = outline(np.zeros((20, 30), int))
    assert (nothing.index == -1).all() and not nothing.lines.any()
    empty = Segmentation(labels=np.zeros(2, int), masks=np.zeros((2, 20, 30), bool))
    outlined = outline_segments(empty, np.arange(2), grid=(20, 30), line_width=2.0)
    assert (outlined.index == -1).all() and not outlined.lines.any()

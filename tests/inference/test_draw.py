import dataclasses

import numpy as np
import pytest
from PIL import Image

from eomt_jax.inference import draw, name_plates
from eomt_jax.inference.segmentation import Segmentation
from eomt_jax.types import ClassInfo, DatasetInfo

INFO = DatasetInfo(
    name="fake",
    classes=(
        ClassInfo(1, "cat", True, (220, 20, 60)),
        ClassInfo(2, "grass", False, (60, 200, 60)),
        ClassInfo(3, "sky", False, (70, 130, 180)),
    ),
    max_image_size=(24, 32),
    max_segments=3,
    num_examples={},
)


@pytest.fixture
def image():
    return np.full((24, 32, 3), 128, np.uint8)


@pytest.fixture
def segmentation():
    """Sky above grass, two cats, nothing at the right edge."""
    id_map = np.full((24, 32), 4)
    id_map[12:] = 3
    id_map[8:20, 3:11], id_map[8:20, 15:23] = 1, 2
    id_map[:, 28:] = 0
    return Segmentation(labels=np.array([0, 0, 1, 2]), id_map=id_map)


def test_draw_segmentation_colours_say_class_and_instance(image, segmentation):
    picture = draw.draw_segmentation(image, segmentation, INFO, long_side=320)
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8
    sky, grass = picture[30, 40].astype(int), picture[225, 20].astype(int)
    cats = picture[100, 40].astype(int), picture[100, 160].astype(int)
    nothing = picture[100, 300].astype(int)
    assert sky.argmax() == 2 and grass.argmax() == 1
    assert all(cat.argmax() == 0 for cat in cats)
    assert np.abs(cats[0] - cats[1]).max() > 25, "instances must differ"
    assert np.ptp(nothing) <= 2, "no segment: grey"


def test_draw_segmentation_outlines_are_white(image, segmentation):
    picture = draw.draw_segmentation(image, segmentation, INFO, long_side=320)
    along = picture[225, :300].min(-1)  # from grass into nothing
    assert along[270:290].max() > 200 and along[200:260].max() < 150


def test_draw_segmentation_writes_names_of_large_segments(
    image, segmentation, monkeypatch
):
    written = []
    original = draw.write_names

    def spy(picture, index, names, colors):
        before = np.asarray(picture).copy()
        original(picture, index, names, colors)
        written.extend(names)
        assert (np.asarray(picture) != before).any()

    monkeypatch.setattr(draw, "write_names", spy)
    draw.draw_segmentation(image, segmentation, INFO, long_side=320)
    assert written == ["cat", "cat", "grass", "sky"]


def test_draw_segmentation_names_every_large_region_of_stuff(image, monkeypatch):
    written = []

    def spy(picture, index, names, colors):
        shown = np.unique(index[index >= 0])
        written.extend(
            (names[i], index[20, 4] == i, index[20, 300] == i) for i in shown
        )

    id_map = np.zeros((24, 32), int)
    id_map[:, :9], id_map[:, 20:], id_map[23, 14] = 1, 1, 1
    both = Segmentation(labels=np.array([2]), id_map=id_map)
    monkeypatch.setattr(draw, "write_names", spy)
    draw.draw_segmentation(image, both, INFO, long_side=320)
    assert sorted(written) == [("sky", False, True), ("sky", True, False)]
    written.clear()
    cat = Segmentation(labels=np.array([0]), id_map=id_map)
    draw.draw_segmentation(image, cat, INFO, long_side=320)
    assert written == [("cat", True, True)]


def test_draw_segmentation_nothing_found(image):
    nothing = Segmentation(
        labels=np.zeros(5, int), id_map=np.zeros(image.shape[:2], int)
    )
    picture = draw.draw_segmentation(image, nothing, INFO)
    assert picture.shape == image.shape
    assert np.ptp(picture.astype(int), axis=-1).max() <= 2


@pytest.fixture
def overlapping():
    """A cat over much of the left, a small one on it, half of it beside."""
    masks = np.zeros((3, 24, 32), bool)
    masks[0, 4:20, 10:18] = True  # the small one first: order must not matter
    masks[1, 2:22, 2:14] = True
    return Segmentation(
        labels=np.array([0, 0, 2]), masks=masks, scores=np.array([0.5, 0.934, 0.4])
    )


def test_draw_segmentation_small_masks_lie_over_large(image, overlapping):
    picture = draw.draw_segmentation(image, overlapping, INFO, long_side=320)
    large, both, small = (picture[170, x].astype(int) for x in (60, 115, 165))
    assert np.abs(both - small).max() < 6
    assert np.abs(both - large).max() > 25
    # The large one's hidden edge shows through, weaker than the edges on top.
    hidden, edge = (picture[170, x - 6 : x + 6].min(-1).max() for x in (140, 180))
    assert small.min() + 30 < hidden < edge - 30
    # Around the objects the photograph stays as it is.
    np.testing.assert_array_equal(picture[:, 250:], 128)


def test_draw_segmentation_names_have_scores_and_say_crowd(
    image, segmentation, overlapping, monkeypatch
):
    written = []
    monkeypatch.setattr(draw, "write_names", lambda *args: written.append(args[2]))
    draw.draw_segmentation(image, overlapping, INFO)
    crowd = np.array([True, False, False, False])
    crowded = dataclasses.replace(segmentation, is_crowd=crowd)
    draw.draw_segmentation(image, crowded, INFO)
    assert written == [
        ["cat 0.50", "cat 0.93", "sky 0.40"],
        ["cat (crowd)", "cat", "grass", "sky"],
    ]


def test_draw_segmentation_without_masks_is_the_photograph(image):
    nothing = Segmentation(labels=np.zeros(0, int), masks=np.zeros((0, 24, 32), bool))
    np.testing.assert_array_equal(draw.draw_segmentation(image, nothing, INFO), image)


def test_draw_segmentation_sizes_that_differ_are_refused(image):
    with pytest.raises(ValueError, match=r"\(24, 32\).*\(24, 30\)"):
        draw.draw_segmentation(
            image,
            Segmentation(labels=np.zeros(0, int), id_map=np.zeros((24, 30), int)),
            INFO,
        )


def test_write_names_never_overlap_and_stay_inside():
    picture = Image.new("RGB", (200, 100))
    index = np.zeros((100, 200), int)
    index[48:50] = 1  # in the middle, where the first name stands
    names = ["around", "a long name on a thin line"]
    colors = np.array([[255.0, 0.0, 0.0], [0.0, 255.0, 0.0]])
    name_plates.write_names(picture, index, names, colors)
    red, green, _ = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
    rows = [
        np.flatnonzero((one > other + 60).any(1))
        for one, other in ((red, green), (green, red))
    ]
    columns = np.flatnonzero((red + green).any(0))
    assert len(rows[0]) > 10 and len(rows[1]) > 10, "both are written"
    assert not set(rows[0]) & set(rows[1])
    assert columns.min() > 0 and columns.max() < 199


def test_write_names_tiny_segment_gets_none():
    picture = Image.new("RGB", (200, 100))
    index = np.full((100, 200), -1)
    index[50, 50:60] = 0
    name_plates.write_names(picture, index, ["speck"], np.full((1, 3), 200.0))
    assert not np.asarray(picture).any()

import dataclasses

import numpy as np
import pytest

from eomt_jax.pictures import overlays
from eomt_jax.postprocess.segmentation import Segmentation
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
    """Returns sky above grass, two cats, and no segment at the right edge."""
    id_map = np.full((24, 32), 4)
    id_map[12:] = 3
    id_map[8:20, 3:11], id_map[8:20, 15:23] = 1, 2
    id_map[:, 28:] = 0
    return Segmentation(labels=np.array([0, 0, 1, 2]), id_map=id_map)


def test_draw_segmentation_colours_say_class_and_instance(image, segmentation):
    picture = overlays.draw_segmentation(image, segmentation, INFO, long_side=320)
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8
    sky, grass = picture[30, 40].astype(int), picture[225, 20].astype(int)
    cats = picture[100, 40].astype(int), picture[100, 160].astype(int)
    nothing = picture[100, 300].astype(int)
    assert sky.argmax() == 2 and grass.argmax() == 1
    assert all(cat.argmax() == 0 for cat in cats)
    assert np.abs(cats[0] - cats[1]).max() > 25, "instances must differ"
    assert np.ptp(nothing) <= 2, "no segment: grey"


def test_draw_segmentation_outlines_are_white(image, segmentation):
    picture = overlays.draw_segmentation(image, segmentation, INFO, long_side=320)
    along = picture[225, :300].min(-1)  # from grass into nothing
    assert along[270:290].max() > 200 and along[200:260].max() < 150


def test_draw_segmentation_writes_names_of_large_segments(
    image, segmentation, monkeypatch
):
    written = []
    original = overlays.write_names

    def spy(picture, index, names, colors):
        before = np.asarray(picture).copy()
        original(picture, index, names, colors)
        written.extend(names)
        assert (np.asarray(picture) != before).any()

    monkeypatch.setattr(overlays, "write_names", spy)
    overlays.draw_segmentation(image, segmentation, INFO, long_side=320)
    assert written == ["cat", "cat", "grass", "sky"]


def test_draw_segmentation_names_every_large_region_of_stuff(image, monkeypatch):
    written = []

    def spy(picture, index, names, colors):
        shown = np.unique(index[index >= 0])
        written.extend((names[i], index[20, 4] == i, index[20, -4] == i) for i in shown)

    id_map = np.zeros((24, 32), int)
    id_map[:, :9], id_map[:, 20:], id_map[23, 14] = 1, 1, 1
    both = Segmentation(labels=np.array([2]), id_map=id_map)
    monkeypatch.setattr(overlays, "write_names", spy)
    overlays.draw_segmentation(image, both, INFO, long_side=320)
    assert sorted(written) == [("sky", False, True), ("sky", True, False)]
    written.clear()
    cat = Segmentation(labels=np.array([0]), id_map=id_map)
    overlays.draw_segmentation(image, cat, INFO, long_side=320)
    assert written == [("cat", True, True)]


def test_draw_segmentation_nothing_found(image):
    nothing = Segmentation(
        labels=np.zeros(5, int), id_map=np.zeros(image.shape[:2], int)
    )
    picture = overlays.draw_segmentation(image, nothing, INFO)
    assert picture.shape == image.shape
    assert np.ptp(picture.astype(int), axis=-1).max() <= 2


@pytest.fixture
def overlapping():
    """Returns a cat over much of the left, and a small one, half of it on the first."""
    masks = np.zeros((3, 24, 32), bool)
    masks[0, 4:20, 10:18] = True  # the small one first: order must not matter
    masks[1, 2:22, 2:14] = True
    return Segmentation(
        labels=np.array([0, 0, 2]), masks=masks, scores=np.array([0.5, 0.934, 0.4])
    )


def test_draw_segmentation_small_masks_lie_over_large(image, overlapping):
    picture = overlays.draw_segmentation(image, overlapping, INFO, long_side=320)
    large, both, small = (picture[170, x].astype(int) for x in (60, 115, 165))
    assert np.abs(both - small).max() < 6
    assert np.abs(both - large).max() > 25
    # The hidden edge of the large one is visible, but weaker than the edges on top.
    hidden, edge = (picture[170, x - 6 : x + 6].min(-1).max() for x in (140, 180))
    assert small.min() + 30 < hidden < edge - 30
    # The photograph doesn't change outside of the objects.
    np.testing.assert_array_equal(picture[:, 250:], 128)


def test_draw_segmentation_names_have_scores_and_say_crowd(
    image, segmentation, overlapping, monkeypatch
):
    written = []
    monkeypatch.setattr(overlays, "write_names", lambda *args: written.append(args[2]))
    overlays.draw_segmentation(image, overlapping, INFO)
    crowd = np.array([True, False, False, False])
    crowded = dataclasses.replace(segmentation, is_crowd=crowd)
    overlays.draw_segmentation(image, crowded, INFO)
    assert written == [
        ["cat 50%", "cat 93%", "sky 40%"],
        ["cat (crowd)", "cat", "grass", "sky"],
    ]


def test_draw_segmentation_scores_and_least_score_on_request(
    image, segmentation, overlapping, monkeypatch
):
    written = []

    def spy(picture, index, names, colors):
        written.append([names[i] for i in np.unique(index[index >= 0])])

    monkeypatch.setattr(overlays, "write_names", spy)
    overlays.draw_segmentation(
        image, overlapping, INFO, min_score=0.45, show_scores=False, long_side=320
    )
    guessed = dataclasses.replace(segmentation, scores=np.array([0.9, 0.3, 0.5, 1.0]))
    picture = overlays.draw_segmentation(
        image, guessed, INFO, min_score=0.5, show_scores=True, long_side=320
    )
    assert written == [["cat", "cat"], ["cat 90%", "grass 50%", "sky 100%"]]
    without = picture[160, 190].astype(int)
    assert np.ptp(without) <= 2, "what scores less is no segment"


@pytest.mark.parametrize(("width", "most"), [(0.0, 175), (12.0, 255)])
def test_draw_segmentation_line_width(image, segmentation, width, most):
    picture = overlays.draw_segmentation(
        image, segmentation, INFO, long_side=320, line_width=width
    )
    across = picture[225, 200:].min(-1).astype(int)  # from grass into nothing
    assert across.max() <= most
    assert abs(int((across > 200).sum()) - width) <= 3


def test_draw_segmentation_short_names_of_merged_classes(image, monkeypatch):
    names = ["sky-other-merged", "door-stuff", "water-other", "wall-wood", "my_class"]
    info = dataclasses.replace(
        INFO,
        classes=tuple(
            ClassInfo(i, name, False, (9, 9, 200)) for i, name in enumerate(names)
        ),
    )
    written = []
    monkeypatch.setattr(overlays, "write_names", lambda *args: written.extend(args[2]))
    everything = Segmentation(labels=np.arange(5), id_map=np.ones((24, 32), int))
    overlays.draw_segmentation(image, everything, info)
    assert written == ["sky", "door", "water", "wall-wood", "my class"]


def test_draw_segmentation_large_pictures_look_as_smaller_ones(image, segmentation):
    """Outlines are drawn on a grid of limited size and enlarged."""
    small, large = (
        overlays.draw_segmentation(image, segmentation, INFO, long_side=side)
        for side in (overlays._MAX_OUTLINED, 2 * overlays._MAX_OUTLINED)
    )
    shrunk = large.reshape(small.shape[0], 2, small.shape[1], 2, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (3, 2), (700, 30)])
@pytest.mark.parametrize("long_side", [None, 300])
def test_draw_segmentation_odd_sizes(size, long_side):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2])
    for segmentation in (
        Segmentation(labels=labels, id_map=rng.integers(0, 4, size).astype(np.uint8)),
        Segmentation(labels=labels, masks=rng.random((3, *size)) > 0.7),
    ):
        picture = overlays.draw_segmentation(
            image, segmentation, INFO, long_side=long_side
        )
        assert max(picture.shape) == (long_side or max(*size, 3))


def test_draw_segmentation_without_masks_is_the_photograph(image):
    nothing = Segmentation(labels=np.zeros(0, int), masks=np.zeros((0, 24, 32), bool))
    np.testing.assert_array_equal(
        overlays.draw_segmentation(image, nothing, INFO), image
    )


def test_draw_segmentation_sizes_that_differ_are_refused(image):
    with pytest.raises(ValueError, match=r"\(24, 32\).*\(24, 30\)"):
        overlays.draw_segmentation(
            image,
            Segmentation(labels=np.zeros(0, int), id_map=np.zeros((24, 30), int)),
            INFO,
        )

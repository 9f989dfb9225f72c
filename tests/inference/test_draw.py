import jax
import numpy as np
import pytest
from PIL import Image

from eomt_jax.inference import draw, name_plates
from eomt_jax.inference.panoptic import PanopticPrediction
from eomt_jax.types import Batch, ClassInfo, DatasetInfo, Targets

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
def id_map():
    """Sky above grass, two cats, nothing at the right edge."""
    id_map = np.full((24, 32), 4)
    id_map[12:] = 3
    id_map[8:20, 3:11], id_map[8:20, 15:23] = 1, 2
    id_map[:, 28:] = 0
    return id_map


LABELS = np.array([0, 0, 1, 2], np.int32)


def test_draw_panoptic_colours_say_class_and_instance(image, id_map):
    picture = draw.draw_panoptic(image, id_map, LABELS, INFO, long_side=320)
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8
    sky, grass = picture[30, 40].astype(int), picture[225, 20].astype(int)
    cats = picture[100, 40].astype(int), picture[100, 160].astype(int)
    nothing = picture[100, 300].astype(int)
    assert sky.argmax() == 2 and grass.argmax() == 1
    assert all(cat.argmax() == 0 for cat in cats)
    assert np.abs(cats[0] - cats[1]).max() > 25, "instances must differ"
    assert np.ptp(nothing) <= 2, "no segment: grey"


def test_draw_panoptic_outlines_are_white(image, id_map):
    picture = draw.draw_panoptic(image, id_map, LABELS, INFO, long_side=320)
    along = picture[225, :300].min(-1)  # from grass into nothing
    assert along[270:290].max() > 200 and along[200:260].max() < 150


def test_draw_panoptic_writes_names_of_large_segments(image, id_map, monkeypatch):
    written = []
    original = draw.write_names

    def spy(picture, index, names, colors):
        before = np.asarray(picture).copy()
        original(picture, index, names, colors)
        written.extend(names)
        assert (np.asarray(picture) != before).any()

    monkeypatch.setattr(draw, "write_names", spy)
    draw.draw_panoptic(image, id_map, LABELS, INFO, long_side=320)
    assert written == ["cat", "cat", "grass", "sky"]


def test_draw_panoptic_nothing_found(image):
    empty = np.zeros(image.shape[:2], int)
    picture = draw.draw_panoptic(image, empty, np.zeros(5, int), INFO)
    assert picture.shape == image.shape
    assert np.ptp(picture.astype(int), axis=-1).max() <= 2


def test_draw_panoptic_sizes_that_differ_are_refused(image):
    with pytest.raises(ValueError, match=r"\(24, 32\).*\(24, 30\)"):
        draw.draw_panoptic(image, np.zeros((24, 30), int), LABELS, INFO)


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


def test_draw_comparison_of_a_batch(image, id_map):
    canvas = np.zeros((2, 40, 40), np.uint8)
    canvas[:, :24, :32] = id_map
    network_input = np.zeros((2, 64, 64, 3), np.uint8)
    network_input[:, :48] = 128
    rows = np.ones((2, 4), bool)
    batch = Batch(
        image=network_input,
        targets=Targets(
            id_map=canvas, labels=np.tile(LABELS, (2, 1)), valid=rows, is_crowd=~rows
        ),
        valid=np.array([True, False]),
        example_index=np.array([0, -1], np.int32),
        content_size=np.array([[48, 64], [64, 64]], np.int32),
        original_size=np.array([[24, 32], [40, 40]], np.int32),
    )
    prediction = PanopticPrediction(
        id_map=canvas.astype(np.int32),
        labels=np.tile(LABELS, (2, 1)),
        scores=np.ones((2, 4), np.float32),
        valid=rows,
    )
    pictures = draw.batch_pictures(batch, jax.device_get(prediction), max_pictures=5)
    assert len(pictures) == 1
    np.testing.assert_array_equal(pictures[0].image, image)
    sheet = draw.draw_comparison(pictures * 2, INFO, panel=160)
    height, width = 120, 160
    assert sheet.shape[0] > 2 * height and sheet.shape[1] > 3 * width
    # Prediction and target are equal here, so their panels are too.
    left, middle = (
        sheet[30:150, 8 : 8 + width],
        sheet[30:150, 16 + width : 16 + 2 * width],
    )
    np.testing.assert_array_equal(left[:100], middle[:100])
    assert (sheet[:4] == 255).all()

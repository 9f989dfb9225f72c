"""Every picture of the drawn dataset has the promised shapes and sizes."""

import io

import numpy as np
import pytest
from PIL import Image

from eomt_jax.datasets import shapes

SAMPLE = [("train", i) for i in range(60)] + [("validation", i) for i in range(20)]


@pytest.fixture(scope="module")
def drawn():
    return [shapes.draw_record(split, index) for split, index in SAMPLE]


def test_drawing_is_a_function_of_split_and_index(drawn):
    again = shapes.draw_record("train", 7)
    assert again.image_bytes == drawn[7].image_bytes
    np.testing.assert_array_equal(again.segment_map, drawn[7].segment_map)
    assert len({record.image_bytes for record in drawn}) == len(drawn)


def test_first_picture_is_the_same_on_every_machine():
    record = shapes.draw_record("train", 0)
    assert record.labels.tolist() == [1, 2, 0, 2, 3, 4]
    pixels = np.bincount(record.segment_map.ravel())
    np.testing.assert_allclose(pixels, [0, 818, 637, 1476, 526, 2535, 3224], atol=3)


def test_pictures_have_their_numbers_of_things_and_stuff(drawn):
    num_things = [sum(label < 3 for label in r.labels) for r in drawn]
    num_stuff = [sum(label >= 3 for label in r.labels) for r in drawn]

    assert set(num_things) == {2, 3, 4}
    assert set(num_stuff) == {2, 3}
    for record in drawn:
        stuff = record.labels[record.labels >= 3]
        assert len(set(stuff)) == len(stuff)
        assert not record.is_crowd.any()


def test_crowded_pictures_have_more_and_smaller_things():
    records = [shapes.draw_record("train", i, shapes.CROWDED) for i in range(12)]
    num_things = [int((record.labels < 3).sum()) for record in records]
    assert min(num_things) >= 8 and max(num_things) <= 14 and len(set(num_things)) > 2
    for record in records:
        assert record.segment_map.shape == (128, 128)
        pixels = np.bincount(record.segment_map.ravel())[1:]
        assert pixels[record.labels < 3].max() <= 28**2 + 28


def test_every_pixel_has_a_segment_and_no_segment_is_tiny(drawn):
    for record in drawn:
        pixels = np.bincount(record.segment_map.ravel(), minlength=1)
        assert len(pixels) == len(record.labels) + 1
        assert pixels[0] == 0
        is_stuff = record.labels >= 3
        assert pixels[1:][is_stuff].min() >= shapes.SCENE.min_stuff_pixels
        # The smallest shape is a triangle 24 wide, of which MIN_VISIBLE is visible.
        assert pixels[1:][~is_stuff].min() >= shapes.MIN_VISIBLE * 220


def test_things_are_as_wide_as_promised_and_hide_one_another(drawn):
    widths, solidity = [], []
    for record in drawn:
        for number, label in enumerate(record.labels):
            if label == 1:
                rows, columns = np.nonzero(record.segment_map == number + 1)
                widths.append(max(np.ptp(rows), np.ptp(columns)) + 1)
        circles = np.flatnonzero(record.labels == 0)
        for number in circles:
            rows, columns = np.nonzero(record.segment_map == number + 1)
            diameter = max(np.ptp(rows), np.ptp(columns)) + 1
            solidity.append(len(rows) / (np.pi / 4 * diameter**2))
    assert 20 <= np.percentile(widths, 10)
    assert max(widths) <= 58  # 46 wide, tilted by up to 14 degrees
    assert 0.1 < np.mean(np.array(solidity) < 0.9) < 0.6


def test_classes_are_balanced(drawn):
    counts = np.bincount(np.concatenate([r.labels for r in drawn]), minlength=6)
    assert counts[:3].min() > 0.6 * counts[:3].mean()
    assert counts[3:].min() > 0.8 * counts[3:].mean()


def test_image_decodes_to_the_size_said(drawn):
    image = Image.open(io.BytesIO(drawn[0].image_bytes))
    assert image.mode == "RGB"
    assert image.size == (shapes.SCENE.size, shapes.SCENE.size)
    assert drawn[0].segment_map.shape == (drawn[0].height, drawn[0].width)

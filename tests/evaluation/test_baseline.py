import jax
import numpy as np
import pytest
from pycocotools import mask as mask_codec

from eomt_jax.evaluation.baseline import ConstantClass, most_frequent_class
from eomt_jax.pipeline.records import Record

INSIDE = np.zeros((6, 8), bool)
INSIDE[:6, :4] = True


def predict(source):
    batch = jax.tree.map(jax.numpy.asarray, next(source.batches()))
    return ConstantClass(2, source.info)(None, batch)


def test_constant_class_panoptic_covers_the_photograph_alone(photographs):
    prediction = predict(photographs("panoptic"))
    np.testing.assert_array_equal(prediction.id_map[0], INSIDE)
    assert prediction.labels[0, 0] == 2 and prediction.valid.all()


def test_constant_class_semantic_covers_the_photograph_alone(photographs):
    prediction = predict(photographs("semantic"))
    np.testing.assert_array_equal(prediction.label_map[7], np.where(INSIDE, 2, -1))


def test_constant_class_instance_covers_the_photograph_alone(photographs):
    prediction = predict(photographs("instance"))
    mask = np.unpackbits(prediction.mask_bits[3, 0], axis=-1, bitorder="little")
    np.testing.assert_array_equal(mask, INSIDE)
    assert prediction.labels.tolist() == [[2]] * 8
    assert prediction.scores.tolist() == [[1.0]] * 8


def record(labels, **masks):
    labels = np.array(labels, np.int32)
    return Record(b"", labels, np.zeros(len(labels), bool), "", 1, 5, **masks)


def test_most_frequent_class_counts_pixels_not_segments():
    one = record([1, 1], segment_map=np.array([[0, 0, 0, 1, 2]], np.uint16))
    two = record([0, 2], segment_map=np.array([[1, 1, 1, 2, 0]], np.uint16))
    assert most_frequent_class([one, two], 3) == 0


@pytest.mark.parametrize(("last", "expected"), [(2, 0), (5, 1)])
def test_most_frequent_class_of_overlapping_masks(last, expected):
    masks = np.zeros((1, 5, 2), np.uint8, order="F")
    masks[:, :3, 0], masks[:, :last, 1] = 1, 1
    rles = tuple(rle["counts"] for rle in mask_codec.encode(masks))
    assert most_frequent_class([record([0, 1], rles=rles), record([], rles=())], 2) == (
        expected
    )

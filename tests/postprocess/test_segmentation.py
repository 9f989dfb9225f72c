import numpy as np
import pytest
from pycocotools import mask as mask_codec

from eomt_jax.pipeline.records import Record
from eomt_jax.postprocess.instance import InstancePrediction
from eomt_jax.postprocess.panoptic import PanopticPrediction
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.postprocess.semantic import SemanticPrediction
from eomt_jax.task_registry import get_task
from eomt_jax.types import Targets


def record(**masks):
    return Record(
        image_bytes=b"",
        labels=np.array([2, 0], np.int32),
        is_crowd=np.array([False, True]),
        image_id="one",
        height=3,
        width=4,
        **masks,
    )


def overlapping_masks():
    masks = np.zeros((2, 3, 4), bool)
    masks[0, :2] = True
    masks[1, 1:, 2:] = True
    return masks


def targets(**masks):
    return Targets(
        labels=np.array([[7, 7], [2, 1]], np.int32),
        valid=np.array([[False, False], [True, False]]),
        is_crowd=np.array([[False, False], [True, False]]),
        **masks,
    )


def test_segmentation_panoptic_keeps_segments_and_cuts_the_canvas():
    id_map = np.zeros((2, 4, 5), np.int32)
    id_map[1, :2, :3], id_map[1, 2, 1:3] = 5, 2
    prediction = PanopticPrediction(
        id_map=id_map,
        labels=np.array([[9] * 5, [9, 3, 9, 9, 4]], np.int32),
        scores=np.array([[0.0] * 5, [0.1, 0.9, 0.2, 0.3, 0.8]], np.float32),
        valid=np.array([[False] * 5, [False, True, False, False, True]]),
    )
    found = get_task("panoptic").segmentation(prediction, 1, (3, 3))
    assert found.size == (3, 3)
    np.testing.assert_array_equal(found.labels, [3, 4])
    np.testing.assert_array_equal(found.scores, np.float32([0.9, 0.8]))
    np.testing.assert_array_equal(found.id_map, [[2, 2, 2], [2, 2, 2], [0, 1, 1]])


def test_segmentation_nothing_found():
    prediction = PanopticPrediction(
        id_map=np.zeros((1, 4, 5), np.int32),
        labels=np.zeros((1, 6), np.int32),
        scores=np.zeros((1, 6), np.float32),
        valid=np.zeros((1, 6), bool),
    )
    found = get_task("panoptic").segmentation(prediction, 0, (4, 5))
    assert len(found.labels) == 0
    assert not found.id_map.any()


def test_segmentation_instance_leaves_low_scores_out():
    masks = np.zeros((1, 3, 4, 16), bool)
    masks[0, 0, :2, 3:9], masks[0, 2, 1:, :10] = True, True
    prediction = InstancePrediction(
        mask_bits=np.packbits(masks, axis=-1, bitorder="little"),
        labels=np.array([[4, 5, 6]], np.int32),
        scores=np.array([[0.5, 0.2, 0.9]], np.float32),
        queries=np.array([[7, 8, 9]], np.int32),
    )
    found = get_task("instance").segmentation(prediction, 0, (3, 11), min_score=0.5)
    np.testing.assert_array_equal(found.labels, [4, 6])
    np.testing.assert_array_equal(found.scores, np.float32([0.5, 0.9]))
    np.testing.assert_array_equal(found.queries, [7, 9])
    np.testing.assert_array_equal(found.masks, masks[0, [0, 2], :3, :11])
    np.testing.assert_array_equal(found.best_first().queries, [9, 7])


def test_segmentation_semantic_cuts_the_canvas():
    label_map = np.full((2, 3, 4), -1, np.int32)
    label_map[1, :2, :3] = [[5, 5, 2], [5, 2, 2]]
    prediction = SemanticPrediction(label_map=label_map)
    found = get_task("semantic").segmentation(prediction, 1, (2, 3))
    np.testing.assert_array_equal(found.labels, [2, 5])
    np.testing.assert_array_equal(found.id_map, [[2, 2, 1], [2, 1, 1]])


def test_from_label_map_one_segment_a_class():
    found = Segmentation.from_label_map(np.array([[5, 5, -1], [0, 5, 0]]))
    np.testing.assert_array_equal(found.labels, [0, 5])
    np.testing.assert_array_equal(found.id_map, [[2, 2, 0], [1, 2, 1]])


def test_from_record_in_both_forms():
    segment_map = np.array([[1, 1, 1, 1], [1, 1, 2, 2], [0, 0, 2, 2]], np.uint16)
    as_map = Segmentation.from_record(record(segment_map=segment_map))
    np.testing.assert_array_equal(as_map.id_map, segment_map)
    masks = overlapping_masks()
    rles = tuple(
        mask_codec.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        for mask in masks
    )
    as_masks = Segmentation.from_record(record(rles=rles, areas=np.zeros(2)))
    np.testing.assert_array_equal(as_masks.masks, masks)
    for found in (as_map, as_masks):
        assert found.size == (3, 4)
        np.testing.assert_array_equal(found.labels, [2, 0])
        np.testing.assert_array_equal(found.is_crowd, [False, True])


def test_from_targets_in_both_forms_leaves_padding_out():
    id_map = np.zeros((2, 3, 4), np.uint8)
    id_map[1, :2] = 1
    from_map = Segmentation.from_targets(targets(id_map=id_map), 1, (3, 3))
    from_bits = Segmentation.from_targets(
        targets(mask_bits=id_map[..., None]), 1, (3, 3)
    )
    np.testing.assert_array_equal(from_map.id_map, id_map[1, :, :3])
    np.testing.assert_array_equal(from_bits.masks, id_map[1:, :, :3])
    for found in (from_map, from_bits):
        np.testing.assert_array_equal(found.labels, [2])
        np.testing.assert_array_equal(found.is_crowd, [True])


def test_from_targets_without_masks_is_refused():
    with pytest.raises(ValueError, match="from_record"):
        Segmentation.from_targets(targets(), 1, (3, 3))


def test_by_class_unites_segments_and_keeps_void():
    found = Segmentation(
        labels=np.array([4, 1, 4]), id_map=np.array([[1, 2, 0], [3, 2, 0]])
    ).by_class()
    np.testing.assert_array_equal(found.labels, [1, 4])
    np.testing.assert_array_equal(found.id_map, [[2, 1, 0], [2, 1, 0]])


def test_by_class_of_overlapping_masks_is_refused():
    both = Segmentation(labels=np.array([0, 1]), masks=overlapping_masks())
    with pytest.raises(ValueError, match="overlapping"):
        both.by_class()


def test_segmentation_has_one_form_of_masks():
    with pytest.raises(ValueError, match="one of the two"):
        Segmentation(labels=np.array([0]))

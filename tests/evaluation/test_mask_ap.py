import jax
import numpy as np
import pytest
from pycocotools import mask as mask_codec

from eomt_jax.evaluation.mask_ap import MaskAP, encode_mask_bits
from eomt_jax.pipeline.records import Record
from eomt_jax.postprocess.instance import InstancePrediction

METRIC = MaskAP.with_classes([True, True, False])
SIZE, CANVAS = (8, 10), (9, 13)


class Records(list):
    """A prepared split that needs no files."""

    info, split = None, "validation"

    def image_id(self, index):
        return str(index)


def bar(first, last):
    """Returns a mask of columns."""
    mask = np.zeros(SIZE, bool)
    mask[:, first:last] = True
    return mask


def make_record(masks, labels, *, crowd=(), areas=None):
    rles = [mask_codec.encode(np.asfortranarray(m, np.uint8)) for m in masks]
    return Record(
        image_bytes=b"",
        labels=np.array(labels, np.int32),
        is_crowd=np.isin(np.arange(len(labels)), crowd),
        image_id="",
        height=SIZE[0],
        width=SIZE[1],
        rles=tuple(rle["counts"] for rle in rles),
        areas=np.array(areas or [m.sum() for m in masks], np.float64),
    )


def make_prediction(*images):
    """Makes a prediction from [(mask, label, score), …] for each image."""
    masks = np.zeros((len(images), len(images[0]), *CANVAS), bool)
    for i, instances in enumerate(images):
        for n, (mask, _, _) in enumerate(instances):
            masks[i, n, : SIZE[0], : SIZE[1]] = mask
    return InstancePrediction(
        mask_bits=np.packbits(masks, axis=-1, bitorder="little"),
        labels=np.array([[x[1] for x in image] for image in images], np.int32),
        scores=np.array([[x[2] for x in image] for image in images], np.float32),
    )


def measure(prediction, records, *, valid=None, index=None):
    rows = len(prediction.labels)
    return METRIC.from_model_output(
        prediction=prediction,
        batch_valid=np.array(valid or [True] * rows),
        example_index=np.array(index or range(rows), np.int32),
        source=Records(records),
    )


def test_mask_ap_by_hand():
    # The masks have IoU 1 at score 0.9, a wrong one at 0.8, and IoU 0.6 (3 of 5
    # columns) at 0.7.
    prediction = make_prediction(
        [(bar(0, 4), 0, 0.9), (bar(8, 9), 0, 0.8), (bar(4, 7), 0, 0.7)]
    )
    record = make_record([bar(0, 4), bar(4, 9)], [0, 0])
    result = measure(prediction, [record]).compute()
    # Recall ½ (51 of 101 points) has precision 1; the rest has ⅔ up to IoU 0.6, then 0.
    strict = 51 / 101
    loose = (51 + 50 * 2 / 3) / 101
    expected = (3 * loose + 7 * strict) / 10
    assert result["all"]["ap"] == pytest.approx(100 * expected)
    assert result["all"]["ap50"] == pytest.approx(100 * loose)
    assert result["all"]["ap75"] == pytest.approx(100 * strict)
    assert result["all"]["ap_small"] == pytest.approx(100 * expected)
    assert np.isnan(result["all"]["ap_medium"]) and np.isnan(result["all"]["ap_large"])
    assert result["all"]["ar1"] == 50.0
    assert result["all"]["ar100"] == pytest.approx(65.0)
    assert result["all"]["num_classes"] == 1
    per_class = result["per_class"]
    np.testing.assert_allclose(per_class["ap"], [100 * expected, np.nan, np.nan])
    np.testing.assert_allclose(per_class["ap50"], [100 * loose, np.nan, np.nan])
    assert per_class["num_objects"].tolist() == [2, 0, 0]


def test_mask_ap_crowd_forgives_and_is_not_missed():
    prediction = make_prediction(
        [(bar(0, 2), 0, 0.9), (bar(2, 4), 0, 0.8), (bar(6, 9), 0, 0.7)]
    )
    record = make_record([bar(0, 4), bar(6, 9)], [0, 0], crowd=[0])
    result = measure(prediction, [record]).compute()
    assert result["all"]["ap"] == pytest.approx(100)
    assert result["per_class"]["num_objects"].tolist() == [1, 0, 0]


def test_mask_ap_published_areas_decide_the_size():
    prediction = make_prediction([(bar(0, 4), 0, 0.9)])
    result = measure(prediction, [make_record([bar(0, 4)], [0], areas=[97.0**2])])
    assert result.compute()["all"]["ap_large"] == pytest.approx(100)
    assert np.isnan(result.compute()["all"]["ap_small"])


def test_mask_ap_padding_row_adds_nothing_and_reads_nothing():
    instances = [(bar(0, 4), 0, 0.9)]
    metric = measure(
        make_prediction(instances, instances),
        [make_record([bar(0, 4)], [0])],
        valid=[True, False],
        index=[0, -1],
    )
    assert (metric.image.tolist(), metric.object_image.tolist()) == ([0], [0])


def test_mask_ap_image_without_objects_costs_precision():
    prediction = make_prediction([(bar(0, 4), 0, 0.5)], [(bar(0, 4), 0, 0.9)])
    records = [make_record([bar(0, 4)], [0]), make_record([], [])]
    result = measure(prediction, records).compute()
    assert result["all"]["ap"] == pytest.approx(50)


def test_mask_ap_merged_parts_equal_the_whole_in_any_order():
    rng = np.random.default_rng(0)
    records, images = [], []
    for _ in range(7):
        starts = rng.integers(0, 6, 3)
        masks = [bar(start, start + 3) for start in starts]
        records.append(make_record(masks, rng.integers(0, 2, 3)))
        images.append(
            [
                (bar(s, s + 4), rng.integers(0, 2), rng.choice([0.5, 0.7]))
                for s in starts
            ]
        )
    whole = measure(make_prediction(*images), records)
    parts = [
        measure(make_prediction(*[images[i] for i in part]), records, index=part)
        for part in ([5, 6], [0, 2, 4], [1, 3])
    ]
    merged = METRIC.empty().merge(parts[0]).merge(parts[1]).merge(parts[2])
    assert 0 < whole.compute()["all"]["ap"] < 100
    jax.tree.map(np.testing.assert_array_equal, merged.compute(), whole.compute())


def test_mask_ap_of_panoptic_records_counts_things_alone():
    id_map = np.zeros(SIZE, np.uint16)
    id_map[:, :4], id_map[:, 4:7] = 1, 2
    record = Record(
        image_bytes=b"",
        labels=np.array([2, 1], np.int32),
        is_crowd=np.zeros(2, bool),
        image_id="",
        height=SIZE[0],
        width=SIZE[1],
        segment_map=id_map,
    )
    prediction = make_prediction([(bar(4, 7), 1, 0.9), (bar(0, 1), 2, 0.8)])
    result = measure(prediction, [record]).compute()
    assert result["per_class"]["num_objects"].tolist() == [0, 1, 0]
    assert result["all"]["ap"] == pytest.approx(100)
    assert result["all"]["ap_small"] == pytest.approx(100)


def test_mask_ap_of_nothing_is_nan():
    result = METRIC.empty().compute()
    assert np.isnan(result["all"]["ap"]) and np.isnan(result["per_class"]["ap"]).all()
    assert result["all"]["num_classes"] == 0


def test_encode_mask_bits_cuts_the_canvas_off():
    rng = np.random.default_rng(0)
    masks = rng.random((3, *CANVAS)) < 0.5
    rles = encode_mask_bits(np.packbits(masks, axis=-1, bitorder="little"), SIZE)
    decoded = mask_codec.decode(rles).transpose(2, 0, 1)
    np.testing.assert_array_equal(decoded, masks[:, : SIZE[0], : SIZE[1]])
    assert encode_mask_bits(np.zeros((0, 9, 2), np.uint8), SIZE) == []


def test_with_classes_same_table_is_the_same_type():
    assert MaskAP.with_classes(np.array([True, True, False])) is METRIC

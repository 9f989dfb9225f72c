"""Streamed and merged mask AP equals that of pycocotools on all images at once."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools import mask as mask_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eomt_jax.evaluation.mask_ap import MaskAP
from eomt_jax.pipeline.records import Record
from eomt_jax.postprocess.instance import InstancePrediction

pytestmark = pytest.mark.parity

NUM_CLASSES = 5  # The last one never occurs, the one before is only predicted.
CANVAS, INSTANCES, BATCH = (150, 220), 6, 4
NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


class Records(list):
    info, split = None, "validation"

    def image_id(self, index):
        return str(index)


def random_mask(rng, size):
    """Returns a rectangle of any size, sometimes with holes, sometimes empty."""
    (top, bottom), (left, right) = (
        np.sort(rng.integers(0, side + 1, 2)) for side in size
    )
    if rng.random() < 0.3:
        top, left = 0, 0
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = rng.random() < 0.9
    if rng.random() < 0.2:
        mask &= rng.random(size) < 0.7
    return mask


def encode(mask):
    return mask_codec.encode(np.asfortranarray(mask, np.uint8))


def random_case(rng):
    """Returns a record, and predictions that are more or less like its objects."""
    height, width = (int(rng.integers(30, side + 1)) for side in CANVAS)
    size = (height, width)
    masks = [random_mask(rng, size) for _ in range(rng.choice([0, 1, 2, 5]))]
    labels = rng.integers(0, NUM_CLASSES - 2, len(masks)).astype(np.int32)
    rles = [encode(mask) for mask in masks]
    areas = [float(mask_codec.area(rle)) * rng.choice([1.0, 0.9]) for rle in rles]
    record = Record(
        image_bytes=b"",
        labels=labels,
        is_crowd=rng.random(len(masks)) < 0.25,
        image_id="",
        height=height,
        width=width,
        rles=tuple(rle["counts"] for rle in rles),
        areas=np.array(areas, np.float64),
    )
    found = np.zeros((INSTANCES, *CANVAS), bool)
    found_labels = rng.integers(0, NUM_CLASSES - 1, INSTANCES).astype(np.int32)
    for n in range(INSTANCES):
        mask = random_mask(rng, size)
        if masks and rng.random() < 0.8:
            chosen = rng.integers(len(masks))
            mask = np.roll(masks[chosen], rng.integers(-2, 3, 2), (0, 1))
            if rng.random() < 0.8:
                found_labels[n] = labels[chosen]
        found[n, :height, :width] = mask
    # There are few different scores, so that some tie within and between images.
    scores = rng.integers(1, 20, INSTANCES).astype(np.float32) / np.float32(19)
    return record, found, found_labels, scores


def official(cases):
    images, annotations, results = [], [], []
    for index, (record, found, labels, scores) in enumerate(cases):
        height, width = record.size
        images.append({"id": index, "height": height, "width": width})
        for t, rle in enumerate(record.rles):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": int(record.labels[t]),
                    "segmentation": {"size": [height, width], "counts": rle},
                    "area": float(record.areas[t]),
                    "iscrowd": int(record.is_crowd[t]),
                }
            )
        results += [
            {
                "image_id": index,
                "category_id": int(label),
                "segmentation": encode(mask[:height, :width]),
                "score": float(score),
            }
            for mask, label, score in zip(found, labels, scores)
        ]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k} for k in range(NUM_CLASSES)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(results), "segm")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    return coco


def ours(cases):
    metric_type = MaskAP.with_classes([True] * NUM_CLASSES)
    source = Records(case[0] for case in cases)
    total = metric_type.empty()
    # Two processes take every second batch each; the last batch is short.
    starts = range(0, len(cases), BATCH)
    for start in (*starts[1::2], *starts[::2]):
        rows = [min(start + i, len(cases) - 1) for i in range(BATCH)]
        _, found, labels, scores = zip(*(cases[row] for row in rows))
        metric = metric_type.from_model_output(
            prediction=InstancePrediction(
                mask_bits=np.packbits(np.stack(found), axis=-1, bitorder="little"),
                labels=np.stack(labels),
                scores=np.stack(scores),
            ),
            batch_valid=start + np.arange(BATCH) < len(cases),
            example_index=np.array(rows, np.int32),
            source=source,
        )
        total = total.merge(metric)
    return total.compute()


@pytest.mark.parametrize("seed", range(5))
def test_mask_ap_random_images_equals_pycocotools_to_the_last_digit(seed):
    rng = np.random.default_rng(seed)
    cases = [random_case(rng) for _ in range(50 + seed)]
    expected, found = official(cases), ours(cases)
    stats = [found["all"][name] for name in NAMES]
    np.testing.assert_array_equal(stats, 100 * expected.stats)
    assert (expected.stats > 0).all(), "the cases must have matches of every size"
    precision = expected.eval["precision"]
    for k in range(NUM_CLASSES):
        of_class = precision[:, :, k, 0, -1]
        ap, ap50 = (found["per_class"][name][k] for name in ("ap", "ap50"))
        if of_class.max() < 0:
            assert np.isnan(ap) and np.isnan(ap50) and k >= NUM_CLASSES - 2
            continue
        np.testing.assert_allclose(ap, 100 * of_class.mean(), rtol=1e-14)
        np.testing.assert_allclose(ap50, 100 * of_class[0].mean(), rtol=1e-14)


def test_mask_ap_without_any_object_has_no_value():
    rng = np.random.default_rng(0)
    cases = []
    while len(cases) < 6:
        case = random_case(rng)
        if not len(case[0].labels):
            cases.append(case)
    assert (official(cases).stats == -1).all()
    assert all(np.isnan(ours(cases)["all"][name]) for name in NAMES)

import functools
import subprocess
import sys

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.evaluation import panoptic_quality as pq
from eomt_jax.postprocess.panoptic import PanopticPrediction
from eomt_jax.types import Targets

PQ = pq.PanopticQuality.with_classes([True, True, False])


PIXELS, QUERIES, TARGETS = 8, 2, 3  # All cases are padded to one compiled shape.


@jax.jit
def run(prediction, targets, batch_valid, original_size):
    return PQ.from_model_output(
        prediction=prediction,
        targets=targets,
        batch_valid=batch_valid,
        original_size=original_size,
    )


def pad(values, length):
    return np.array([[*values, *[0] * (length - len(values))]])


def measure(
    predicted,
    predicted_labels,
    target,
    target_labels,
    *,
    crowd=(),
    valid=True,
    original_size=None,
):
    """Returns the metric of an image of one row of ids; padded rows have label 0."""
    num_targets = len(target_labels)
    prediction = PanopticPrediction(
        id_map=pad(predicted, PIXELS)[None],
        labels=pad(predicted_labels, QUERIES),
        scores=np.ones((1, QUERIES), np.float32),
        valid=np.isin(np.arange(1, QUERIES + 1), predicted)[None],
    )
    targets = Targets(
        id_map=pad(target, PIXELS)[None].astype(np.uint8),
        labels=pad(target_labels, TARGETS),
        valid=np.arange(TARGETS)[None] < num_targets,
        is_crowd=np.isin(np.arange(TARGETS), crowd)[None],
    )
    size = np.array([original_size or (1, len(target))])
    return run(prediction, targets, np.array([valid]), size)


def counts(metric):
    metric = metric.to_host()
    return [[float(x) for x in getattr(metric, n)] for n in ("iou", "tp", "fp", "fn")]


def test_pq_by_hand():
    # Class 0 shares 3 of 4 pixels. For class 2 a half is not enough.
    metric = measure([1, 1, 1, 0, 2, 2, 0, 0], [0, 2], [1, 1, 1, 1, 2, 2, 2, 2], [0, 2])
    assert counts(metric) == [[0.75, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]]
    result = metric.compute()
    assert result["all"] == {"pq": 37.5, "sq": 37.5, "rq": 50.0, "num_classes": 2}
    assert result["things"] == {"pq": 75.0, "sq": 75.0, "rq": 100.0, "num_classes": 1}
    assert result["stuff"] == {"pq": 0.0, "sq": 0.0, "rq": 0.0, "num_classes": 1}
    assert np.isnan(result["per_class"]["pq"][1])


def test_pq_void_leaves_the_union():
    # 2 pixels are shared, 1 is missed, and 3 of the prediction are void: the IoU is 2 /
    # 3.
    metric = measure([1, 1, 0, 1, 1, 1], [0], [1, 1, 1, 0, 0, 0], [0])
    np.testing.assert_allclose(counts(metric)[0][0], 2 / 3, rtol=1e-6)
    assert counts(metric)[1:] == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(("on_void", "false_positive"), [(2, 1.0), (3, 0.0)])
def test_pq_prediction_mostly_on_void_is_ignored(on_void, false_positive):
    predicted = [1, 1, 1, 1, 0, 0, 0, 0]
    target = [0] * on_void + [1] * (8 - on_void)
    metric = measure(predicted, [1], target, [0])
    assert counts(metric)[2] == [0, false_positive, 0]
    assert counts(metric)[3] == [1, 0, 0]


@pytest.mark.parametrize(("label", "false_positive"), [(0, 0.0), (1, 1.0)])
def test_pq_crowd_forgives_its_own_class_only(label, false_positive):
    metric = measure([1, 1, 1, 0], [label], [1, 1, 1, 1], [0], crowd=[0])
    expected_fp = [0.0, 0.0, 0.0]
    expected_fp[label] = false_positive
    assert counts(metric) == [[0, 0, 0], [0, 0, 0], expected_fp, [0, 0, 0]]


def test_pq_segment_without_pixels_counts_as_missed():
    metric = measure([1, 1], [0], [1, 1], [0, 1])
    assert counts(metric) == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_pq_padding_row_adds_nothing():
    metric = measure([1, 1, 2], [0, 1], [1, 2, 2], [0, 1], valid=False)
    assert not any(np.any(x) for x in jax.tree.leaves(metric))


def test_pq_pixels_past_original_size_are_ignored():
    inside = measure([1, 1], [0], [1, 1], [0])
    padded = measure([1, 1, 1, 2], [0, 1], [1, 1, 2, 0], [0], original_size=(1, 2))
    assert counts(padded)[:2] == counts(inside)[:2]
    assert counts(padded)[2] == [0, 0, 0]


def test_joint_histogram_counts_every_pair():
    rng = np.random.default_rng(0)
    predicted, target = rng.integers(0, 4, (9, 7)), rng.integers(0, 3, (9, 7))
    joint = pq.joint_histogram(
        jnp.array(predicted),
        jnp.array(target, jnp.uint16),
        jnp.array([9, 5]),
        num_predictions=3,
        num_targets=2,
    )
    expected = np.zeros((4, 3), int)
    np.add.at(expected, (predicted[:, :5].ravel(), target[:, :5].ravel()), 1)
    np.testing.assert_array_equal(joint, expected)


def test_pq_in_a_clu_collection_under_jit():
    @flax.struct.dataclass
    class Metrics(clu.metrics.Collection):
        panoptic: PQ

    @jax.jit
    def step(metrics, update):
        return metrics.merge(
            Metrics(_reduction_counter=metrics._reduction_counter, panoptic=update)
        )

    update = measure([1, 1, 1, 0], [0], [1, 1, 1, 1], [0])
    metrics = step(step(Metrics.empty(), update), update)
    assert metrics.compute()["panoptic"]["all"]["pq"] == 75.0


def test_pq_host_sums_keep_small_parts():
    update = measure([1, 1, 1, 0], [0], [1, 1, 1, 1], [0]).to_host()
    large = jax.tree.map(lambda x: x + 2.0**30, update)
    total = large.merge(update)
    assert total.iou[0] == 2.0**30 + 1.5


def test_pq_sums_of_a_batch_are_exact_in_any_order():
    updates = [
        measure([1] * n + [0] * (40 - n), [0], [1] * (n + 1) + [0] * (39 - n), [0])
        for n in range(2, 40)
    ]
    add = functools.partial(functools.reduce, PQ.merge)
    exact = sum(np.float64(np.float32(n / (n + 1))) for n in range(2, 40))
    assert add(updates).to_host().iou[0] == add(updates[::-1]).to_host().iou[0] == exact


def test_with_classes_same_table_is_the_same_type():
    assert pq.PanopticQuality.with_classes(np.array([True, True, False])) is PQ


def test_metrics_import_no_tensorflow():
    code = (
        "import sys, eomt_jax.evaluation.evaluator; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

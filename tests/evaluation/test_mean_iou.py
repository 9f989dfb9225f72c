import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.evaluation.mean_iou import MeanIoU
from eomt_jax.postprocess.semantic import SemanticPrediction
from eomt_jax.types import Targets

METRIC = MeanIoU.with_classes(3)


def measure(label_map, id_map, labels, *, batch_valid=None, original_size=None):
    """Returns the metric of images of one row of pixels, with equal target labels."""
    label_map, id_map = np.array(label_map)[:, None], np.array(id_map)[:, None]
    batch_size, _, width = id_map.shape
    num_targets = 4  # Padded rows have label 0.
    targets = Targets(
        id_map=jnp.array(id_map, jnp.uint8),
        labels=jnp.array([[*labels, *[0] * (num_targets - len(labels))]] * batch_size),
        valid=jnp.array([np.arange(num_targets) < len(labels)] * batch_size),
        is_crowd=jnp.zeros((batch_size, num_targets), bool),
    )
    return jax.jit(METRIC.from_model_output)(
        prediction=SemanticPrediction(jnp.array(label_map, jnp.int32)),
        targets=targets,
        batch_valid=jnp.array(batch_valid or [True] * batch_size),
        original_size=jnp.array(original_size or [(1, width)] * batch_size),
    )


def test_mean_iou_by_hand():
    # Targets are 2 2 2 2 0 0, predictions 2 2 2 0 0 0; segments 1 and 3 are one class.
    metric = measure([[2, 2, 2, 0, 0, 0]], [[1, 1, 3, 3, 2, 2]], [2, 0, 2])
    assert metric.confusion.tolist() == [[2, 0, 0], [0, 0, 0], [1, 0, 3]]
    result = metric.compute()
    iou, accuracy = result["per_class"]["iou"], result["per_class"]["accuracy"]
    np.testing.assert_allclose(iou, [200 / 3, np.nan, 75])
    np.testing.assert_allclose(accuracy, [100, np.nan, 75])
    assert result["per_class"]["pixels"].tolist() == [2, 0, 4]
    expected = {"miou": (200 / 3 + 75) / 2, "mean_accuracy": 87.5}
    expected |= {"pixel_accuracy": 500 / 6, "num_classes": 2}
    assert result["all"] == pytest.approx(expected)


def test_mean_iou_class_only_predicted_counts_as_missed():
    result = measure([[0, 1]], [[1, 1]], [0]).compute()
    assert result["all"]["num_classes"] == 2
    assert result["all"]["miou"] == 25.0
    assert result["all"]["mean_accuracy"] == 50.0


def test_mean_iou_void_counts_nowhere():
    metric = measure([[0, 1, 2]], [[1, 0, 0]], [0])
    assert metric.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_mean_iou_padding_adds_nothing():
    metric = measure(
        [[0, 0, -1], [1, 1, 1]],
        [[1, 1, 0], [1, 1, 1]],
        [0],
        batch_valid=[True, False],
        original_size=[(1, 2), (1, 3)],
    )
    assert metric.confusion.tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]
    past = measure([[0, 1, 1]], [[1, 1, 1]], [0], original_size=[(1, 1)])
    assert past.confusion.sum() == 1


def test_mean_iou_nothing_but_void_is_nan():
    result = measure([[0, 1]], [[0, 0]], []).compute()
    assert result["all"]["num_classes"] == 0
    assert all(np.isnan(result["all"][n]) for n in ("miou", "pixel_accuracy"))


def test_mean_iou_host_sums_past_int32():
    metric = METRIC(confusion=np.full((3, 3), 2**31 - 1, np.int32)).to_host()
    assert metric.merge(metric).confusion.tolist() == [[2**32 - 2] * 3] * 3


def test_mean_iou_merge_under_jit():
    one, other = measure([[0, 1]], [[1, 1]], [0]), measure([[2, 2]], [[1, 1]], [2])
    merged = jax.jit(lambda a, b: METRIC.empty().merge(a).merge(b))(one, other)
    assert merged.confusion.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 2]]


def test_with_classes_same_number_is_the_same_type():
    assert MeanIoU.with_classes(3) is METRIC

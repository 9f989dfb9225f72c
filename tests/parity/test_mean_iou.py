"""mIoU, accuracies and the confusion matrix equal those of torchmetrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.evaluation.mean_iou import MeanIoU
from eomt_jax.postprocess.semantic import SemanticPrediction
from eomt_jax.types import Targets

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
functional = pytest.importorskip("torchmetrics.functional.classification")

NUM_CLASSES, VOID = 7, 255
BATCH, HEIGHT, WIDTH, TARGETS = 3, 12, 17, 8


def random_batch(rng, num_valid):
    """Returns label maps of several sizes, with void and absent classes."""
    present = rng.permutation(NUM_CLASSES)[: rng.integers(1, NUM_CLASSES + 1)]
    labels = rng.choice(present, (BATCH, TARGETS)).astype(np.int32)
    id_map = rng.integers(0, TARGETS + 1, (BATCH, 1 + HEIGHT // 4, 1 + WIDTH // 4))
    id_map = id_map.repeat(4, 1).repeat(4, 2)[:, :HEIGHT, :WIDTH]
    id_map[
        rng.random(id_map.shape) < rng.choice([0.0, 0.3, 1.0], p=[0.5, 0.4, 0.1])
    ] = 0
    size = np.stack(
        [rng.integers(1, HEIGHT + 1, BATCH), rng.integers(1, WIDTH + 1, BATCH)], axis=1
    )
    inside = (np.arange(HEIGHT)[:, None] < size[:, :1, None]) & (
        np.arange(WIDTH) < size[:, 1:, None]
    )
    id_map[~inside] = 0
    classes = np.where(
        id_map > 0,
        np.take_along_axis(
            labels, np.maximum(id_map - 1, 0).reshape(BATCH, -1), axis=1
        ).reshape(id_map.shape),
        VOID,
    )
    wrong = rng.random(id_map.shape) < rng.choice([0.0, 0.2, 0.8])
    guesses = rng.choice(present, id_map.shape)
    label_map = np.where(wrong | (classes == VOID), guesses, classes)
    label_map[~inside] = -1
    valid = np.arange(BATCH) < num_valid
    return label_map.astype(np.int32), id_map, labels, valid, size, classes


@jax.jit
def count(label_map, id_map, labels, batch_valid, original_size):
    return MeanIoU.with_classes(NUM_CLASSES).from_model_output(
        prediction=SemanticPrediction(label_map),
        targets=Targets(
            id_map=id_map.astype(jnp.uint8),
            labels=labels,
            valid=jnp.ones(labels.shape, bool),
            is_crowd=labels % 2 == 0,
        ),
        batch_valid=batch_valid,
        original_size=original_size,
    )


@pytest.mark.parametrize("seed", range(4))
def test_mean_iou_random_label_maps_equals_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        metric = MeanIoU.with_classes(NUM_CLASSES).empty().to_host()
        predicted, target = [], []
        for num_valid in (BATCH, rng.integers(0, BATCH)):
            *inputs, valid, size, classes = random_batch(rng, num_valid)
            metric = metric.merge(count(*inputs, valid, size).to_host())
            predicted.append(np.maximum(inputs[0][valid], 0).ravel())
            target.append(classes[valid].ravel())
        predicted = torch.tensor(np.concatenate(predicted))
        target = torch.tensor(np.concatenate(target))
        options = {"num_classes": NUM_CLASSES, "ignore_index": VOID}
        confusion = functional.multiclass_confusion_matrix(predicted, target, **options)
        found = metric.compute()
        np.testing.assert_array_equal(found["confusion"], confusion)
        if not confusion.sum():
            assert found["all"]["num_classes"] == 0
            continue
        options["average"] = "macro"
        miou = functional.multiclass_jaccard_index(predicted, target, **options)
        assert found["all"]["miou"] / 100 == pytest.approx(float(miou), abs=1e-6)
        options["average"] = "none"
        iou = functional.multiclass_jaccard_index(predicted, target, **options)
        accuracy = functional.multiclass_accuracy(predicted, target, **options)
        for name, expected in (("iou", iou), ("accuracy", accuracy)):
            np.testing.assert_allclose(
                np.nan_to_num(found["per_class"][name]) / 100, expected, atol=1e-6
            )
        options["average"] = "micro"
        accuracy = functional.multiclass_accuracy(predicted, target, **options)
        share = found["all"]["pixel_accuracy"] / 100
        assert share == pytest.approx(float(accuracy), abs=1e-6)

"""Metrics of confidence equal those of scikit-learn, ties and absent classes included."""

import jax
import numpy as np
import pytest

from eomt_jax.evaluation.out_of_distribution import OutOfDistribution

pytestmark = pytest.mark.parity
sklearn = pytest.importorskip("sklearn.metrics")

NUM_CLASSES, VOID = 5, -1
METRIC = OutOfDistribution.with_classes(NUM_CLASSES)


def random_images(rng):
    """Yields label maps, levels of confidence and targets of images of one size."""
    present = rng.permutation(NUM_CLASSES)[: rng.integers(1, NUM_CLASSES + 1)]
    num_levels = rng.choice([2, 20, 65_536])  # few make ties
    for _ in range(rng.integers(1, 4)):
        target = rng.choice([*present, NUM_CLASSES, VOID], (9, 13))
        if rng.random() < 0.2:
            target[:] = VOID
        label_map = np.where(rng.random(target.shape) < 0.6, target, present[0])
        label_map = np.clip(label_map, 0, NUM_CLASSES - 1)
        levels = rng.integers(0, num_levels, target.shape) * (65_536 // num_levels)
        yield tuple(x.astype(np.int32) for x in (label_map, levels, target))


def curves(positive, score):
    """Returns scikit-learn's AUROC, FPR at a recall of 95 % and average precision."""
    found = [None, None, None]
    if positive.any():
        found[2] = sklearn.average_precision_score(positive, score)
        if not positive.all():
            found[0] = sklearn.roc_auc_score(positive, score)
            options = {"drop_intermediate": False}
            false, true, _ = sklearn.roc_curve(positive, score, **options)
            found[1] = false[np.argmax(true >= 0.95)]
    return found


def expected_metrics(label_map, levels, target):
    """Returns the metrics of pixels in a row, None for those without a value."""
    confidence = (levels + 0.5) / 65_536
    valid = (target >= 0) & (target < NUM_CLASSES)
    expected = dict.fromkeys(["miou", "ece"])
    if valid.any():
        iou = sklearn.jaccard_score(
            target[valid],
            label_map[valid],
            labels=np.union1d(target[valid], label_map[valid]),
            average="macro",
            zero_division=0,
        )
        right, sure = label_map[valid] == target[valid], confidence[valid]
        bins = (sure * 15).astype(int)
        gaps = [
            abs(right[bins == i].mean() - sure[bins == i].mean()) * (bins == i).mean()
            for i in np.unique(bins)
        ]
        expected |= {"miou": iou, "ece": sum(gaps)}
    right = (label_map == target)[valid]
    names = ("auroc", "fpr95", "aupr_success")
    expected |= dict(zip(names, curves(right, confidence[valid]), strict=True))
    expected["aupr_error"] = curves(~right, -confidence[valid])[2]
    seen = target != VOID
    names = ("auroc_invalid", "fpr95_invalid", "auprc_invalid")
    found = curves((target == NUM_CLASSES)[seen], -confidence[seen])
    return expected | dict(zip(names, found, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_metrics_of_random_maps_equal_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    count = jax.jit(METRIC.from_maps)
    for _ in range(30):
        images = list(random_images(rng))
        total = METRIC.empty().to_host()
        for image in images:
            total = total.merge(count(*image).to_host())
        pixels = (np.concatenate([x.ravel() for x in maps]) for maps in zip(*images))
        expected = {
            name: value
            for name, value in expected_metrics(*pixels).items()
            if value is not None
        }
        found = total.compute()
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name] / 100 == pytest.approx(value, abs=1e-9), name

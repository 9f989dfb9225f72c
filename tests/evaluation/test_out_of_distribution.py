"""Metrics of confidence, by hand and against the official tool of BRAVO."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.evaluation.evaluator import count_function
from eomt_jax.evaluation.level_curves import harmonic_mean
from eomt_jax.evaluation.out_of_distribution import OutOfDistribution, summarize
from eomt_jax.parallel.mesh import create_mesh
from eomt_jax.postprocess.semantic import SemanticPrediction
from eomt_jax.types import Batch, Targets

METRIC = OutOfDistribution.with_classes(2)
INVALID, VOID = 2, -1
# The official tool's names of ours.
OFFICIAL = {
    "miou": "miou_valid",
    "ece": "ece_valid",
    "auroc": "auroc_valid",
    "fpr95": "fpr95_valid",
    "aupr_success": "auprc_success_valid",
    "aupr_error": "auprc_error_valid",
    "auroc_invalid": "auroc_ood",
    "auprc_invalid": "auprc_ood",
    "fpr95_invalid": "fpr95_ood",
}


def measure(label_map, levels, target):
    """Returns the metrics of pixels in a row."""
    maps = (jnp.array(x, jnp.int32) for x in (label_map, levels, target))
    return METRIC.from_maps(*maps).compute()


def test_metrics_by_hand():
    # From the most to the least confident: right, wrong, right, void, invalid.
    levels = [60_000, 50_000, 20_000, 10, 40_000]
    found = measure([0, 0, 1, 0, 1], levels, [0, 1, 1, VOID, INVALID])
    # One pixel in each of three bins; a level's middle is its confidence.
    gaps = np.array([1, 0, 1]) - (np.array([60_000, 50_000, 20_000]) + 0.5) / 65_536
    assert found == pytest.approx(
        {
            "miou": 50,  # both classes share 1 of 2 pixels
            "ece": 100 * np.abs(gaps).sum() / 3,
            "auroc": 50,  # of two pairs, one is in order
            "fpr95": 100,
            "aupr_success": 100 * (1 / 2 + 1 / 2 * 2 / 3),
            "aupr_error": 50,  # the wrong pixel is second from below
            "auroc_invalid": 100 / 3 * 2,  # two of three valid pixels are surer
            "auprc_invalid": 50,
            "fpr95_invalid": 100 / 3,
        }
    )


def test_ties_count_by_half():
    found = measure([0, 0], [7, 7], [0, 1])
    assert found["auroc"] == found["aupr_success"] == found["aupr_error"] == 50


def test_metrics_without_a_value_are_absent():
    assert measure([], [], []) == {}
    assert measure([0, 1], [7, 9], [VOID, VOID]) == {}
    assert measure([0], [7], [INVALID]) == {"auprc_invalid": 100}
    assert set(measure([0], [7], [0])) == {"miou", "ece", "aupr_success"}
    found = measure([0, 1], [7, 9], [0, INVALID])
    assert set(found) == {
        *("miou", "ece", "aupr_success"),
        *("auroc_invalid", "auprc_invalid", "fpr95_invalid"),
    }


def test_counts_on_the_host_go_past_int32():
    one = METRIC.from_maps(*jnp.zeros((3, 4), jnp.int32)).to_host()
    most = one.replace(right=one.right * 2**30)
    assert most.merge(most).right[0] == 2**33


def random_split(num_images=12):
    """Yields a function from a batch size to the split's batches and predictions."""
    rng = np.random.default_rng(0)
    shape = (num_images, 6, 8)
    label_map = rng.integers(0, 2, shape).astype(np.int32)
    confidence = rng.random(shape).round(2).astype(np.float32)
    id_map = rng.integers(0, 4, shape).astype(np.uint8)
    size = np.stack([rng.integers(1, 7, num_images), rng.integers(1, 9, num_images)], 1)

    def batches(batch_size):
        for start in range(0, num_images, batch_size):
            rows = np.arange(start, start + batch_size)
            valid = rows < num_images
            rows = np.where(valid, rows, 0)
            targets = Targets(
                labels=np.tile([1, INVALID, 0], (batch_size, 1)).astype(np.int32),
                valid=np.ones((batch_size, 3), bool),
                is_crowd=np.zeros((batch_size, 3), bool),
                id_map=id_map[rows],
            )
            batch = Batch(
                image=np.zeros((batch_size, 1, 1, 3), np.uint8),
                targets=targets,
                valid=valid,
                example_index=rows.astype(np.int32),
                content_size=size[rows].astype(np.int32),
                original_size=size[rows].astype(np.int32),
            )
            yield SemanticPrediction(label_map[rows], confidence[rows]), batch

    inside = (np.arange(6)[:, None] < size[:, :1, None]) & (
        np.arange(8) < size[:, 1:, None]
    )
    target = np.where(inside, np.array([VOID, 1, INVALID, 0])[id_map], VOID)
    return batches, (label_map, (confidence * 65_536).astype(np.int32), target)


def test_any_batch_size_and_number_of_devices_gives_the_same_digits():
    batches, maps = random_split()
    expected = METRIC.from_maps(*map(jnp.asarray, maps)).compute()
    assert len(expected) == 9
    for devices, batch_size in ((1, 1), (1, 5), (8, 8), (8, 16)):
        mesh = create_mesh(devices=jax.devices()[:devices])
        count = count_function(METRIC, mesh)
        total = METRIC.empty().to_host()
        for prediction, batch in batches(batch_size):
            metric, _ = count(prediction, batch)
            total = total.merge(metric.to_host())
        assert total.compute() == expected


def read_golden():
    path = pathlib.Path(__file__).parent / "goldens" / "bravo.npz"
    with np.load(path) as file:
        return dict(file)


def test_metrics_equal_those_of_the_official_tool():
    golden, found = read_golden(), {}
    metric_type = OutOfDistribution.with_classes(19)
    count = jax.jit(metric_type.from_maps)
    for subset in sorted({k.split("/")[1] for k in golden if k.startswith("in/")}):
        total = metric_type.empty().to_host()
        for image in ("0", "1"):
            names = ("gt", "invalid", "pred", "conf", "samples")
            gt, invalid, label_map, levels, samples = (
                golden[f"in/{subset}/{image}/{name}"].astype(np.int32) for name in names
            )
            target = np.where(gt == 255, VOID, np.where(invalid > 0, 19, gt))
            sampled = np.zeros(gt.size, bool)
            sampled[samples] = True
            sampled = sampled.reshape(gt.shape)
            total = total.merge(
                count(label_map, levels, target, sampled=sampled).to_host()
            )
        metrics = total.compute()
        # The challenge looks for invalid pixels in two subsets, one without classes.
        unwanted = {
            name
            for name in metrics
            if (subset == "SMIYC" and not name.endswith("invalid"))
            or (subset not in ("SMIYC", "synobjs") and name.endswith("invalid"))
        }
        found[subset] = {n: v for n, v in metrics.items() if n not in unwanted}
        for name, value in found[subset].items():
            expected = golden[f"metric/{subset}_{OFFICIAL[name]}"]
            assert value / 100 == pytest.approx(float(expected), abs=1e-9)
    assert sum(map(len, found.values())) == 8 * 6 + 2 * 3
    means = summarize(found)
    for subset, value in means["subsets"].items():
        expected = golden[f"metric/{subset}_hmean"]
        assert value / 100 == pytest.approx(float(expected), abs=1e-9)
    for name, official in (
        ("semantic", "semantic_hmean"),
        ("invalid", "ood_hmean"),
        ("index", "bravo_index"),
    ):
        expected = golden[f"metric/{official}"]
        assert means[name] / 100 == pytest.approx(float(expected), abs=1e-9)


def test_harmonic_means_by_hand():
    assert harmonic_mean([100, 50]) == pytest.approx(200 / 3)
    assert harmonic_mean([100, 0]) == 0
    assert harmonic_mean([]) is None
    found = summarize({"a": {"miou": 50.0, "ece": 0.0}, "b": {"miou": 100.0}, "c": {}})
    assert found == {
        "subsets": {"a": pytest.approx(200 / 3), "b": 100},
        "semantic": pytest.approx(75),
    }

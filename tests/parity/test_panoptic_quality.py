"""PQ equals that of panopticapi, the code that COCO's leaderboard runs."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eomt_jax.evaluation.panoptic_quality import PanopticQuality
from eomt_jax.postprocess.panoptic import PanopticPrediction
from eomt_jax.types import Targets

pytestmark = pytest.mark.parity
evaluation = pytest.importorskip("panopticapi.evaluation")

IS_THING = (True, True, True, True, False, False, False, False, False)
NUM_CLASSES = len(IS_THING)  # The last one never occurs.
HEIGHT, WIDTH, QUERIES, TARGETS = 20, 28, 12, 9


def random_blocks(rng: np.random.Generator, num_segments: int) -> np.ndarray:
    """Returns an id map of overlapping rectangles, with some pixels 0."""
    id_map = np.zeros((HEIGHT, WIDTH), np.int32)
    for segment in rng.permutation(num_segments) + 1:
        top, left = rng.integers(0, HEIGHT - 2), rng.integers(0, WIDTH - 2)
        height, width = rng.integers(2, HEIGHT), rng.integers(2, WIDTH)
        id_map[top : top + height, left : left + width] = segment
    return id_map


def random_target(
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    id_map = random_blocks(rng, rng.integers(0, TARGETS + 1))
    labels = rng.integers(0, NUM_CLASSES - 1, TARGETS).astype(np.int32)
    crowd = (rng.random(TARGETS) < 0.3) & np.array(IS_THING)[labels]
    return id_map, labels, crowd


def random_prediction(
    rng: np.random.Generator, target: np.ndarray, target_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the target moved, with segments merged, relabelled and drawn over."""
    id_map = np.roll(target, rng.integers(-2, 3, 2), (0, 1))
    permutation = rng.permutation(QUERIES)
    id_map = np.append(0, permutation + 1)[id_map]
    labels = rng.integers(0, NUM_CLASSES - 1, QUERIES).astype(np.int32)
    labels[permutation[:TARGETS]] = target_labels
    for _ in range(rng.integers(0, 3)):
        old, new = rng.integers(0, QUERIES + 1, 2)
        id_map[id_map == old] = new
    extra = random_blocks(rng, QUERIES)
    region = rng.random((HEIGHT, WIDTH)) < rng.choice([0.0, 0.0, 0.1, 0.6])
    id_map = np.where(region, extra, id_map)
    wrong = rng.random(QUERIES) < 0.15
    labels[wrong] = rng.integers(0, NUM_CLASSES - 1, wrong.sum())
    return id_map.astype(np.int32), labels


def write_png(path, id_map: np.ndarray) -> None:
    rgb = np.stack([id_map % 256, id_map // 256, np.zeros_like(id_map)], axis=-1)
    Image.fromarray(rgb.astype(np.uint8)).save(path)


def official(folder, cases) -> dict:
    categories = {
        i: {"id": i, "isthing": int(thing)} for i, thing in enumerate(IS_THING)
    }
    (folder / "target").mkdir()
    (folder / "prediction").mkdir()
    annotations = []
    for index, (id_map, labels, crowd, pred_map, pred_labels) in enumerate(cases):
        name = f"{index}.png"
        write_png(folder / "target" / name, id_map)
        write_png(folder / "prediction" / name, pred_map)
        segments = [
            {
                "id": t + 1,
                "category_id": int(labels[t]),
                "iscrowd": int(crowd[t]),
                "area": int((id_map == t + 1).sum()),
            }
            for t in range(TARGETS)
            if (id_map == t + 1).any()
        ]
        predicted = [
            {"id": q + 1, "category_id": int(pred_labels[q])}
            for q in range(QUERIES)
            if (pred_map == q + 1).any()
        ]
        annotations.append(
            (
                {"image_id": index, "file_name": name, "segments_info": segments},
                {"image_id": index, "file_name": name, "segments_info": predicted},
            )
        )
    stat = evaluation.pq_compute_single_core(
        0, annotations, str(folder / "target"), str(folder / "prediction"), categories
    )
    results = {
        group: stat.pq_average(categories, isthing=flag)[0]
        for group, flag in (("all", None), ("things", True), ("stuff", False))
    }
    results["per_class"] = stat.pq_average(categories, isthing=None)[1]
    results["counts"] = stat.pq_per_cat
    return results


def ours(cases) -> dict:
    metric_type = PanopticQuality.with_classes(IS_THING)
    total = metric_type.empty().to_host()
    for chunk in np.array_split(np.arange(len(cases)), 3):
        id_map, labels, crowd, pred_map, pred_labels = (
            jnp.array(np.stack([cases[i][field] for i in chunk])) for field in range(5)
        )
        size = len(chunk)
        present = (id_map[..., None] == np.arange(1, TARGETS + 1)).any((1, 2))
        found = (pred_map[..., None] == np.arange(1, QUERIES + 1)).any((1, 2))
        metric = metric_type.from_model_output(
            prediction=PanopticPrediction(
                id_map=pred_map,
                labels=pred_labels,
                scores=jnp.ones((size, QUERIES)),
                valid=found,
            ),
            targets=Targets(
                id_map=id_map.astype(jnp.uint8),
                labels=labels,
                valid=present,
                is_crowd=crowd,
            ),
            batch_valid=jnp.ones(size, bool),
            original_size=jnp.full((size, 2), 10_000),
        )
        total = total.merge(metric.to_host())
    return total.compute()


def test_pq_random_segmentations_equals_panopticapi(tmp_path):
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(200):
        target = random_target(rng)
        cases.append((*target, *random_prediction(rng, *target[:2])))
    expected, found = official(tmp_path, cases), ours(cases)
    for group in ("all", "things", "stuff"):
        assert found[group]["num_classes"] == expected[group]["n"]
        for name in ("pq", "sq", "rq"):
            np.testing.assert_allclose(
                found[group][name] / 100, expected[group][name], atol=1e-6
            )
    per_class = found["per_class"]
    assert min(per_class["tp"][:-1]) > 8, "the cases must have matches in each class"
    for k in range(NUM_CLASSES - 1):
        for name in ("tp", "fp", "fn"):
            assert per_class[name][k] == getattr(expected["counts"][k], name)
        for name in ("pq", "sq", "rq"):
            np.testing.assert_allclose(
                per_class[name][k] / 100, expected["per_class"][k][name], atol=1e-6
            )
    assert np.isnan(per_class["pq"][-1])

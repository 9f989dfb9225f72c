import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.evaluation import evaluator
from eomt_jax.evaluation.baseline import ConstantClass, most_frequent_class
from eomt_jax.parallel.mesh import create_mesh
from eomt_jax.types import Batch, ClassInfo, DatasetInfo, Targets

CANVAS, BATCH = (6, 8), 8
INFO = DatasetInfo(
    name="fake",
    classes=tuple(
        ClassInfo(k + 1, f"class {k}", k < 2, (40 * k, 90, 200)) for k in range(4)
    ),
    max_image_size=CANVAS,
    max_segments=2,
    num_examples={"validation": 12},
)


def make_batch(num_valid):
    """Photographs of 6 × 4; the left 3 columns are class 3, the fourth class 0."""
    id_map = np.zeros((BATCH, *CANVAS), np.uint8)
    id_map[:, :, :3], id_map[:, :, 3] = 1, 2
    valid = np.arange(BATCH) < num_valid
    return Batch(
        image=np.zeros((BATCH, 16, 16, 3), np.uint8),
        targets=Targets(
            id_map=id_map,
            labels=np.tile(np.array([3, 0], np.int32), (BATCH, 1)),
            valid=np.ones((BATCH, 2), bool),
            is_crowd=np.zeros((BATCH, 2), bool),
        ),
        valid=valid,
        example_index=np.where(valid, np.arange(BATCH), -1).astype(np.int32),
        content_size=np.full((BATCH, 2), 16, np.int32),
        original_size=np.tile(np.array([6, 4], np.int32), (BATCH, 1)),
    )


@pytest.mark.parametrize("num_devices", [1, 8])
def test_evaluate_counts_each_image_once_on_any_mesh(num_devices):
    mesh = create_mesh(devices=jax.devices()[:num_devices])
    calls = []
    results = evaluator.evaluate(
        ConstantClass(3, mesh=mesh),
        None,
        iter([make_batch(8), make_batch(4)]),
        info=INFO,
        progress=lambda done, speed: calls.append(done),
    )
    assert calls == [8, 12]
    assert results["num_images"] == 12
    # One segment of class 3 over everything: IoU 3/4 in each image; class 0 missed.
    row = results["per_class"][3]
    assert (row["name"], row["tp"], row["fp"], row["fn"]) == ("class 3", 12, 0, 0)
    assert results["per_class"][0]["fn"] == 12
    assert results["stuff"] == {"pq": 75.0, "sq": 75.0, "rq": 100.0, "num_classes": 1}
    assert results["all"]["pq"] == 37.5
    assert results["per_class"][1]["pq"] is None


def test_evaluate_nothing_is_refused():
    with pytest.raises(ValueError, match="no image"):
        evaluator.evaluate(ConstantClass(0), None, iter([]), info=INFO)


def test_write_results_is_json_and_leaves_nothing_behind(tmp_path):
    results = evaluator.evaluate(
        ConstantClass(3), None, iter([make_batch(1)]), info=INFO
    )
    path = tmp_path / "new" / "results.json"
    evaluator.write_results(results, path)
    evaluator.write_results(results, path)
    assert json.loads(path.read_text())["all"] == results["all"]
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_format_table_shows_classes_that_occur_best_first():
    results = evaluator.evaluate(
        ConstantClass(3), None, iter([make_batch(2)]), info=INFO
    )
    table = evaluator.format_table(results)
    assert table.index("class 3") < table.index("class 0")
    assert "class 1" not in table
    assert "things" in table and "37.5" in table
    assert "class 0" not in evaluator.format_table(results, per_class=False)
    empty = {
        **results,
        "things": {"pq": None, "sq": None, "rq": None, "num_classes": 0},
    }
    assert "–" in evaluator.format_table(empty)


def test_constant_class_covers_the_photograph_alone():
    prediction = ConstantClass(2)(None, jax.tree.map(jnp.asarray, make_batch(1)))
    expected = np.zeros(CANVAS, int)
    expected[:6, :4] = 1
    np.testing.assert_array_equal(prediction.id_map[0], expected)
    assert prediction.labels[0, 0] == 2 and prediction.valid.all()


def test_most_frequent_class_counts_pixels_not_segments():
    one = (np.array([[0, 0, 0, 1, 2]]), np.array([1, 1]))
    two = (np.array([[1, 1, 1, 2, 0]]), np.array([0, 2]))
    assert most_frequent_class([one, two], 3) == 0

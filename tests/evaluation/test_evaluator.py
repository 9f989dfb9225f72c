import jax
import numpy as np
import pytest

from eomt_jax.evaluation import evaluator
from eomt_jax.evaluation.baseline import ConstantClass
from eomt_jax.parallel.mesh import create_mesh


def evaluate(source, *, label=3, num_devices=1, num_images=12, **options):
    mesh = create_mesh(devices=jax.devices()[:num_devices])
    return evaluator.evaluate(
        ConstantClass(label, source.info, mesh=mesh),
        None,
        source.batches(num_images),
        info=source.info,
        source=source,
        **options,
    )


@pytest.mark.parametrize("num_devices", [1, 8])
def test_evaluate_panoptic_counts_each_image_once_on_any_mesh(photographs, num_devices):
    calls = []
    results = evaluate(
        photographs("panoptic"),
        num_devices=num_devices,
        progress=lambda done, speed: calls.append(done),
    )
    assert calls == [8, 12]
    assert (results["task"], results["num_images"]) == ("panoptic", 12)
    # One segment of class 3 covers everything: its IoU is 3/4, and class 0 is missed.
    row = results["per_class"][3]
    assert (row["name"], row["tp"], row["fp"], row["fn"]) == ("class 3", 12, 0, 0)
    assert results["per_class"][0]["fn"] == 12
    assert results["stuff"] == {"pq": 75.0, "sq": 75.0, "rq": 100.0, "num_classes": 1}
    assert results["all"]["pq"] == 37.5
    assert results["per_class"][1]["pq"] is None


@pytest.mark.parametrize("num_devices", [1, 8])
def test_evaluate_semantic_counts_each_image_once_on_any_mesh(photographs, num_devices):
    results = evaluate(photographs("semantic"), num_devices=num_devices)
    assert (results["task"], results["num_images"]) == ("semantic", 12)
    row = results["per_class"][3]
    assert (row["iou"], row["accuracy"], row["pixels"]) == (75.0, 100.0, 12 * 18)
    assert results["per_class"][1]["iou"] is None
    assert results["all"] == {
        "miou": 37.5,
        "mean_accuracy": 50.0,
        "pixel_accuracy": 75.0,
        "num_classes": 2,
    }
    assert results["confusion"][0] == [0, 0, 0, 12 * 6]
    assert results["confusion"][3] == [0, 0, 0, 12 * 18]


@pytest.mark.parametrize("num_devices", [1, 8])
def test_evaluate_instance_counts_each_image_once_on_any_mesh(photographs, num_devices):
    source = photographs("instance")
    results = evaluate(source, num_devices=num_devices)
    assert (results["task"], results["num_images"]) == ("instance", 12)
    # An IoU of 3/4 matches at thresholds 0.5 to 0.75, that is 6 of 10.
    assert results["per_class"][3]["ap"] == pytest.approx(60)
    assert results["per_class"][3]["num_objects"] == 12
    assert results["per_class"][0]["ap"] == 0
    assert results["per_class"][1]["ap"] is None
    assert results["all"]["ap"] == pytest.approx(30)
    assert results["all"]["ap_large"] is None


def test_evaluate_instance_without_records_is_refused(photographs):
    source = photographs("instance")
    predictor = ConstantClass(0, source.info)
    with pytest.raises(ValueError, match="pass source"):
        evaluator.evaluate(predictor, None, source.batches(), info=source.info)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_evaluate_shows_every_batch_in_host_memory(photographs, task):
    seen = []

    def on_batch(batch, prediction):
        leaves = jax.tree.leaves((batch, prediction))
        assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
        assert all(len(leaf) == 8 for leaf in leaves)
        seen.extend(batch.example_index[batch.valid].tolist())

    evaluate(photographs(task), num_devices=8, on_batch=[on_batch])
    assert seen == list(range(12))


def test_evaluate_nothing_is_refused(photographs):
    with pytest.raises(ValueError, match="no image"):
        evaluate(photographs("panoptic"), num_images=0)


@pytest.mark.parametrize(
    ("task", "annotated", "expected"),
    [
        ("", "semantic", "semantic"),
        ("", "instance", "instance"),
        ("semantic", "panoptic", "semantic"),
        ("instance", "panoptic", "instance"),
    ],
)
def test_evaluation_task_is_the_datasets_own_or_one_it_can_tell(
    photographs, task, annotated, expected
):
    assert evaluator.evaluation_task(task, photographs(annotated).info) == expected


@pytest.mark.parametrize(
    ("task", "annotated"),
    [("panoptic", "instance"), ("semantic", "instance"), ("instance", "semantic")],
)
def test_evaluation_task_that_annotations_cannot_tell(photographs, task, annotated):
    with pytest.raises(ValueError, match=f"fake is annotated for {annotated}"):
        evaluator.evaluation_task(task, photographs(annotated).info)
    with pytest.raises(ValueError, match="'panoptc'"):
        evaluator.evaluation_task("panoptc", photographs(annotated).info)

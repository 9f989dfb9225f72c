from eomt_jax.training.reporting import reviews


def test_result_scalars_of_panoptic_quality_by_group():
    results = {
        "task": "panoptic",
        "all": {"pq": 1.5, "sq": 2.0, "rq": 3.0, "num_classes": 2},
        "things": {"pq": None, "sq": None, "rq": None, "num_classes": 0},
        "stuff": {"pq": 4.0, "sq": 5.0, "rq": 6.0, "num_classes": 2},
        "per_class": [{"name": "sky", "pq": 1.0}],
        "num_images": 3,
    }
    assert reviews.result_scalars(results) == {
        "eval/pq_all": 1.5,
        "eval/sq_all": 2.0,
        "eval/rq_all": 3.0,
        "eval/pq_stuff": 4.0,
        "eval/sq_stuff": 5.0,
        "eval/rq_stuff": 6.0,
    }


def test_result_scalars_of_other_tasks_have_no_group():
    results = {
        "task": "instance",
        "all": {"ap": 1.5, "ap_large": None, "num_classes": 2},
        "num_images": 3,
    }
    assert reviews.result_scalars(results) == {"eval/ap": 1.5}

import json

import numpy as np
import pytest

from eomt_jax.evaluation import evaluator, tables
from eomt_jax.evaluation.baseline import ConstantClass


@pytest.fixture
def results(photographs):
    """Returns a function from a task to results of predicting class 3 everywhere."""

    def measure(task):
        source = photographs(task)
        return evaluator.evaluate(
            ConstantClass(3, source.info),
            None,
            source.batches(),
            info=source.info,
            source=source,
        )

    return measure


@pytest.mark.parametrize(
    ("task", "headings", "numbers"),
    [
        ("panoptic", ["PQ", "found", "things", "stuff"], ["37.5", "75.0", "12"]),
        ("semantic", ["IoU", "pixels", "mIoU", "of pixels"], ["37.5", "75.0", "216"]),
        ("instance", ["AP50", "objects", "AP75", "large"], ["30.0", "60.0", "12"]),
    ],
)
def test_format_table_shows_classes_that_occur_best_first(
    results, task, headings, numbers
):
    found = results(task)
    table = tables.format_table(found)
    assert table.index("class 3") < table.index("class 0")
    assert "class 1" not in table
    for text in (*headings, *numbers, "12 images"):
        assert text in table
    short = tables.format_table(found, per_class=False)
    assert "class 0" not in short and table.endswith(short)
    assert max(map(len, table.splitlines())) <= 88


def test_format_table_shows_the_metrics_of_confidence_that_there_are(results):
    measured = {"ece": 1.25, "aupr_success": 99.0, "auprc_invalid": 40.0}
    lines = tables.format_table({**results("semantic"), "confidence": measured})
    lines = [line.split() for line in lines.splitlines()]
    where = lines.index(["confidence,", "right", "pixels", "1.2", "99.0"])
    assert lines[where - 1] == ["ECE", "AUPR"]
    where = lines.index(["confidence,", "invalid", "pixels", "40.0"])
    assert lines[where - 1] == ["AUPRC"]


def test_format_table_what_does_not_occur_is_a_dash(results):
    empty = {"pq": None, "sq": None, "rq": None, "num_classes": 0}
    table = tables.format_table({**results("panoptic"), "things": empty})
    line = next(line for line in table.splitlines() if line.startswith("things"))
    assert line.split() == ["things", "–", "–", "–", "0"]


def test_summarize_has_no_nan_and_plain_numbers(photographs):
    computed = {
        "all": {"miou": float("nan"), "num_classes": np.int64(0)},
        "per_class": {
            "iou": np.array([np.nan, 1, 2, 3], np.float64),
            "pixels": np.arange(4),
        },
        "confusion": np.eye(4, dtype=np.int64),
    }
    found = tables.summarize("semantic", computed, photographs("semantic").info)
    assert found["all"] == {"miou": None, "num_classes": 0}
    row = {"id": 1, "name": "class 0", "is_thing": True, "iou": None, "pixels": 0}
    assert found["per_class"][0] == row
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_write_results_is_json_and_leaves_nothing_behind(tmp_path, results):
    found = results("semantic")
    path = tmp_path / "new" / "results.json"
    tables.write_results(found, path)
    tables.write_results(found, path)
    text = path.read_text()
    assert json.loads(text) == found
    assert "[ 0, 0, 0, 216 ]" in text, "a row of the confusion matrix is one line"
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]

"""Two metrics.jsonl are compared, with numbers worked out by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from eomt_jax.benchmark import curves
from eomt_jax.pictures.curves import COLORS


def write_run(folder, records):
    folder.mkdir()
    lines = [json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_curve_gives_each_step_the_mean_it_was_recorded_in(tmp_path):
    run = write_run(
        tmp_path / "run",
        [
            {"step": 2, "loss": 5.0},
            {"step": 3, "pq": 0.1},
            {"step": 4, "loss": 3.0},
            {"step": 5, "loss": None},
        ],
    )
    np.testing.assert_array_equal(
        curves.read_curve(run, "loss"), [5.0, 5.0, 3.0, 3.0, np.nan]
    )


def test_deviation_of_smoothed_curves_by_hand():
    ours, theirs = np.array([4.0, 2.0, 4.0, 2.0]), np.array([2.0, 4.0, 2.0, 0.0])
    found = curves.deviation(ours, theirs, window=2)
    # The averages are 3, 3, 3 and 3, 3, 1.
    assert found.largest == pytest.approx(2.0)
    assert found.step == 4
    assert found.mean == pytest.approx(2 / 3)
    assert (found.ours, found.theirs) == (3.0, 1.0)


def test_deviation_sees_a_loss_that_is_no_number():
    found = curves.deviation(np.array([1.0, np.nan, 1.0]), np.ones(3), window=1)
    assert np.isnan(found.largest) and found.step == 2


def test_runs_logged_at_different_steps_are_compared_over_common_ones(tmp_path):
    ours = write_run(
        tmp_path / "ours",
        [{"step": 10 * (i + 1), "loss": 11.0, "grad_norm": 1.0} for i in range(9)],
    )
    theirs = write_run(
        tmp_path / "theirs", [{"step": i + 1, "loss": 10.0} for i in range(50)]
    )
    comparison = curves.compare(ours, theirs)
    assert (comparison.num_steps, comparison.window) == (50, 5)
    assert list(comparison.deviations) == ["loss"]
    assert comparison.deviations["loss"].largest == pytest.approx(0.1)

    table = curves.write_comparison(comparison, theirs)
    assert "10.00%" in table and "moving average over 5" in table
    written = json.loads((theirs / "comparison.json").read_text())
    assert written["deviations"]["loss"]["largest"] == pytest.approx(0.1)
    picture = np.asarray(Image.open(theirs / "comparison.png"))
    for color in COLORS[:2]:
        near = np.abs(picture.astype(int) - color).max(-1) < 40
        assert near.any(0).sum() > 500  # a line across most of the picture


def test_reference_is_averaged_over_the_steps_of_our_records(tmp_path):
    """Coarse records of a steep curve are no deviation."""
    curve = 100 / np.arange(1.0, 13.0)
    ours = write_run(
        tmp_path / "ours",
        [{"step": s, "loss": curve[s - 4 : s].mean()} for s in (4, 8, 12)],
    )
    theirs = write_run(
        tmp_path / "theirs",
        [{"step": i + 1, "loss": loss} for i, loss in enumerate(curve[:9])],
    )
    comparison = curves.compare(ours, theirs, window=1)
    assert comparison.num_steps == 8
    assert comparison.deviations["loss"].largest < 1e-12


def test_runs_without_a_common_step_are_refused(tmp_path):
    ours = write_run(tmp_path / "ours", [{"step": 50, "loss": 1.0}])
    theirs = write_run(tmp_path / "theirs", [{"step": 1, "loss": 1.0}])
    with pytest.raises(ValueError, match="ends at step 1, before the first"):
        curves.compare(ours, theirs)


def test_window_longer_than_the_runs_is_refused(tmp_path):
    run = write_run(tmp_path / "run", [{"step": 3, "loss": 1.0}])
    with pytest.raises(
        ValueError, match="window of 4 steps is longer than the 3 common steps"
    ):
        curves.compare(run, run, window=4)


def test_folder_without_metrics_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        curves.read_curve(tmp_path / "nowhere", "loss")

"""Runs are compared by what their folders hold."""

import json

import pytest

from eomt_jax.training.reporting import compared_runs


def write_run(folder, records, config=None):
    folder.mkdir()
    lines = [json.dumps(record) for record in records]
    # The last line is one that a killed process tore.
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"st']))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return compared_runs.read_run(folder)


def test_differences_scores_and_speed_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"batch_size": 4, "seed": 0, "optimizer": {"learning_rate": 1e-4}}
    records = [
        {"step": 10, "loss": 3.0, "images_per_second": 8.0, "eval/ap": 30.0},
        {"step": 20, "loss": 2.0, "images_per_second": 1.0, "eval/ap": 40.0},
        {"step": 30, "loss": 1.5, "images_per_second": 8.0},
        {"step": 30, "eval/ap": 35.0, "eval/ap_50": 60.0},
    ]
    a = write_run(tmp_path / "a", records, config)
    config["optimizer"]["learning_rate"] = 2e-4
    b = write_run(tmp_path / "b", [{"step": 7, "loss": None}, *records[:1]], config)
    text = compared_runs.describe(
        [compared_runs.Run("a", a.fields, a.records), b]
    ).replace(str(b.name), "b")
    rows = [line.split() for line in text.splitlines()]
    assert ["optimizer.learning_rate", "0.0001", "0.0002"] in rows
    assert not any(row[:1] in (["seed"], ["batch_size"]) for row in rows)
    for row in (
        ["steps", "30", "10"],
        ["loss,", "last", "tenth", "1.5", "3"],
        ["seconds", "per", "step", "0.5", "0.5"],
        ["ap,", "last", "35.0", "(30)", "30.0", "(10)"],
        ["ap,", "best", "40.0", "(20)", "30.0", "(10)"],
        ["ap_50,", "last", "60.0", "(30)", "–"],
    ):
        assert row in rows
    assert compared_runs.draw([a, b]).shape[0] > 2 * 440


def test_field_that_an_older_run_lacks_had_its_default(tmp_path):
    record = [{"step": 1, "loss": 1.0}]
    old = write_run(tmp_path / "old", record, {"batch_size": 4})
    new = {"batch_size": 4, "accumulation": 1}
    same = write_run(tmp_path / "same", record, new)
    other = write_run(tmp_path / "other", record, {**new, "accumulation": 2})
    assert "All fields of these recipes are equal." in compared_runs.describe(
        [old, same]
    )
    assert "accumulation" in compared_runs.describe([old, other])


def test_runs_that_cannot_be_compared_are_said_in_sentences(tmp_path):
    loss = {"step": 1, "loss": 1.0}
    panoptic = write_run(tmp_path / "a", [{**loss, "eval/pq_all": 1.0}], {"seed": 0})
    instance = write_run(tmp_path / "b", [{**loss, "eval/ap": 2.0}])
    bare = write_run(tmp_path / "c", [loss], {"seed": 0})
    text = compared_runs.describe([panoptic, instance, bare])
    assert f"{instance.name} has no config.json" in text
    assert f"{bare.name} has made no evaluation" in text
    assert "are of different tasks" in text
    assert f"{panoptic.name} by pq_all; {instance.name} by ap." in text


def test_scores_of_other_photographs_are_said_to_be(tmp_path):
    records = [{"step": 1, "eval/ap": 1.0}]
    runs = [
        write_run(tmp_path / name, records, {"dataset": {"name": name}})
        for name in ("cats", "dogs")
    ]
    text = compared_runs.describe(runs)
    assert "different photographs: dataset.name is cats or dogs." in text


def test_run_of_no_finite_loss_is_not_drawn(tmp_path):
    run = write_run(tmp_path / "a", [{"step": 1, "loss": None}])
    assert compared_runs.draw([run, run]) is None


@pytest.mark.parametrize(
    "files, message",
    [
        (None, "there is no folder"),
        ([], "is no run: it has neither metrics.jsonl nor config.json"),
        (["config.json"], "has recorded no step yet"),
        (["metrics.jsonl"], "has recorded no step yet"),
    ],
)
def test_folder_of_no_run_is_answered_in_a_sentence(tmp_path, files, message):
    folder = tmp_path / "run"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_text("")
    with pytest.raises(ValueError, match=message):
        compared_runs.read_run(folder)

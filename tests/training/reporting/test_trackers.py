"""A tracker gets each record once, and neither ends nor slows a run."""

import json
import sys
import threading
import time

import numpy as np
import pytest

from eomt_jax.training.checkpoints.stored_step import Score
from eomt_jax.training.reporting import trackers
from eomt_jax.training.reporting.metrics_writer import MetricsWriter


class Recorder:
    """Keeps all that it is given, or raises what it is asked to raise."""

    def __init__(self, error=None, *, opens=True, gate=None):
        self.error, self.opens, self.gate = error, opens, gate
        self.calls = []

    def open(self, run_id):
        if self.gate is not None:
            self.gate.wait()
        if not self.opens:
            raise self.error
        self.run_id = run_id

    def scalars(self, step, values):
        self._take("scalars", step, values)

    def image(self, step, name, picture):
        self._take("image", step, (name, picture.shape))

    def close(self, *, failed):
        self.calls.append(("close", failed))

    def _take(self, *call):
        if self.error is not None:
            raise self.error
        self.calls.append(call)


def open_writer(workdir, tracker, *, step=0, **options):
    tracking = trackers.Tracking(tracker, "wandb", workdir, project="shapes")
    return MetricsWriter(workdir, step=step, tracking=tracking, **options)


def test_tracker_gets_scalars_pictures_and_the_best_score(tmp_path):
    tracker = Recorder()
    with open_writer(tmp_path, tracker) as writer:
        writer.scalars(2, {"loss": 1.5, "eval/ap": float("nan")})
        writer.image(2, "predictions", np.zeros((8, 12, 3), np.uint8))
        writer.flush()
        writer.best(4, (2, Score("AP", 12.5)))
    assert tracker.calls == [
        ("image", 2, ("predictions", (8, 12, 3))),
        ("scalars", 2, {"loss": 1.5}),
        ("scalars", 4, {"best/AP": 12.5, "best/step": 2.0}),
        ("close", False),
    ]


def test_resumed_run_keeps_its_id_and_sends_nothing_twice(tmp_path):
    first, second = Recorder(), Recorder()
    with pytest.raises(RuntimeError), open_writer(tmp_path, first) as writer:
        for step in (1, 2, 3):
            writer.scalars(step, {"loss": float(step)})
            writer.flush()
        raise RuntimeError
    assert first.calls[-1] == ("close", True)
    with open_writer(tmp_path, second, step=2) as writer:
        # An evaluation that was left out belongs to a step that was sent before.
        writer.scalars(2, {"eval/ap": 5.0})
        for step in (3, 4):
            writer.scalars(step, {"loss": float(step)})
            writer.flush()
    assert second.run_id == first.run_id
    assert second.calls == [
        ("scalars", 2, {"eval/ap": 5.0}),
        ("scalars", 4, {"loss": 4.0}),
        ("close", False),
    ]


def test_tracker_that_comes_later_gets_what_was_recorded_before(tmp_path):
    with MetricsWriter(tmp_path, step=0) as writer:
        for step in (1, 2, 3):
            writer.scalars(step, {"loss": float(step)})
    tracker = Recorder()
    with open_writer(tmp_path, tracker, step=2) as writer:
        writer.scalars(3, {"loss": 30.0})
    losses = [(step, values["loss"]) for _, step, values in tracker.calls[:-1]]
    assert losses == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_each_tracker_and_project_has_an_id_of_its_own(tmp_path):
    places = [("wandb", "a"), ("mlflow", "a"), ("wandb", "b"), ("wandb", "a")]
    for kind, project in places:
        tracking = trackers.Tracking(Recorder(), kind, tmp_path, project=project)
        with MetricsWriter(tmp_path, step=0, tracking=tracking):
            pass
    ids = json.loads((tmp_path / "tracker.json").read_text())
    assert ids.keys() == {"wandb/a", "mlflow/a", "wandb/b"}
    assert len(set(ids.values())) == 3


def test_tracker_that_fails_is_said_once_and_counted(tmp_path, capsys):
    tracker = Recorder(ConnectionError("no\nroute"))
    with open_writer(tmp_path, tracker) as writer:
        for step in (1, 2, 3):
            writer.scalars(step, {"loss": 1.0})
            writer.flush()
    first, last = capsys.readouterr().out.splitlines()
    assert "did not take a record of this run (ConnectionError: no route)" in first
    assert "lacks 3 records" in last
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_tracker_that_does_not_open_is_said_once(tmp_path, capsys):
    tracker = Recorder(PermissionError("no key"), opens=False)
    with open_writer(tmp_path, tracker) as writer:
        writer._tracking._thread.join()
        writer.scalars(1, {"loss": 1.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert "does not show this run (PermissionError: no key)" in line
    assert not (tmp_path / "tracker.json").exists()


def test_tracker_that_hangs_is_waited_for_at_the_end_alone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(trackers, "_MAX_WAITING", 2)
    monkeypatch.setattr(trackers, "_LAST_WAIT", 0.05)
    gate = threading.Event()
    begin = time.monotonic()
    with open_writer(tmp_path, Recorder(gate=gate)) as writer:
        for step in range(1, 6):
            writer.scalars(step, {"loss": 1.0})
            writer.flush()
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
    assert time.monotonic() - begin < 5
    gate.set()
    first, last = capsys.readouterr().out.splitlines()
    assert "did not take a record of this run (it does not answer)" in first
    assert "is not waited for any longer" in last


def test_writer_of_another_process_opens_no_tracker(tmp_path):
    with open_writer(tmp_path, Recorder(), enabled=False) as writer:
        writer.scalars(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_tracker_without_its_package_is_refused(monkeypatch):
    for kind in trackers.KINDS:
        monkeypatch.setitem(sys.modules, kind, None)
        with pytest.raises(ImportError, match=rf"pip install 'eomt_jax\[{kind}\]'"):
            trackers.check(kind)
    trackers.check("")
    monkeypatch.setattr(trackers, "is_main", lambda: False)
    trackers.check("wandb")

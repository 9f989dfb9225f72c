"""A run records each step once."""

import json
import os
import struct
from typing import ClassVar

import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from tensorboard.compat.proto import event_pb2

from eomt_jax.training.reporting import event_file
from eomt_jax.training.reporting.metrics_writer import MetricsWriter


def read_records(workdir):
    return [json.loads(s) for s in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_scalars(workdir):
    """Returns [(tag, step)] of all event files, as TensorBoard shows them."""
    shown = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            # A record is the length, its checksum, the event and its checksum.
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log"):
                shown = [row for row in shown if row[1] < event.step]
            shown += [(value.tag, event.step) for value in event.summary.value]
    return shown


def test_records_past_the_restored_step_are_written_once(tmp_path):
    with MetricsWriter(tmp_path, step=0) as writer:
        for step in (1, 2, 3):
            writer.scalars(step, {"loss": float(step)})
            writer.flush()
    # A process that is killed may leave half a line.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with MetricsWriter(tmp_path, step=2) as writer:
        for step in (3, 4):
            writer.scalars(step, {"loss": 10.0 * step})
            writer.flush()
    assert read_records(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 30.0},
        {"step": 4, "loss": 40.0},
    ]
    assert read_scalars(tmp_path) == [("loss", step) for step in (1, 2, 3, 4)]


def test_record_of_the_restored_step_may_be_added_to(tmp_path):
    with MetricsWriter(tmp_path, step=0) as writer:
        for step in (1, 2):
            writer.scalars(step, {"loss": float(step)})
    with MetricsWriter(tmp_path, step=2) as writer:
        writer.scalars(2, {"eval/pq_all": 12.5})
        writer.flush()
        writer.scalars(3, {"loss": 3.0})
    assert read_records(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0, "eval/pq_all": 12.5},
        {"step": 3, "loss": 3.0},
    ]
    shown = [("loss", 1), ("loss", 2), ("eval/pq_all", 2), ("loss", 3)]
    assert read_scalars(tmp_path) == shown


class Bucket(MemoryFileSystem):
    """A file system like a bucket: files are written whole, and never appended to."""

    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs:/"))

    def _open(self, path, mode="rb", **options):
        assert "a" not in mode
        return super()._open(path, mode, **options)


def test_runs_in_buckets_are_recorded_too(monkeypatch):
    bucket = Bucket()
    monkeypatch.setattr(
        backend._FileSystemSpecBackend, "_get_filesystem", lambda *_: bucket
    )
    workdir = epath.Path("gs://bucket/run")
    workdir.mkdir(parents=True)
    for start in (0, 2):
        with MetricsWriter(workdir, step=start) as writer:
            for step in range(start + 1, start + 4):
                writer.scalars(step, {"loss": float(step + start)})
                writer.flush()
    losses = [(r["step"], r["loss"]) for r in read_records(workdir)]
    assert losses == [(1, 1.0), (2, 2.0), (3, 5.0), (4, 6.0), (5, 7.0)]
    assert read_scalars(workdir) == [("loss", step) for step in range(1, 6)]


def test_one_record_holds_all_that_is_said_of_a_step(tmp_path):
    with MetricsWriter(tmp_path, step=0) as writer:
        writer.scalars(5, {"loss": 1.0})
        writer.scalars(5, {"eval/pq_all": 12.5, "eval/pq_stuff": float("nan")})
    (record,) = read_records(tmp_path)
    assert record == {
        "step": 5,
        "loss": 1.0,
        "eval/pq_all": 12.5,
        "eval/pq_stuff": None,
    }


def test_pictures_reach_tensorboard(tmp_path):
    with MetricsWriter(tmp_path, step=0) as writer:
        writer.image(3, "predictions", np.zeros((8, 12, 3), np.uint8))
    assert read_scalars(tmp_path) == [("predictions", 3)]


def test_writer_of_another_process_writes_nothing(tmp_path):
    with MetricsWriter(tmp_path, step=0, enabled=False) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.image(1, "predictions", np.zeros((8, 12, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_flushed_records_are_on_the_disk(tmp_path):
    """A process may be killed right after it has saved a checkpoint."""
    names = [f"loss/{i}" for i in range(100)]
    with MetricsWriter(tmp_path, step=0) as writer:
        writer.scalars(1, dict.fromkeys(names, 1.0))
        writer.flush()
        assert len(read_records(tmp_path)) == 1
        assert read_scalars(tmp_path) == [(name, 1) for name in names]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
def test_full_disk_ends_the_run_at_the_next_flush(tmp_path, name, monkeypatch):
    if name == "tensorboard":
        monkeypatch.setattr(event_file, "open", open_full, raising=False)
    writer = MetricsWriter(tmp_path, step=0)
    if name == "metrics.jsonl":
        (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left.*" + name), writer:
        writer.scalars(1, {"loss": 1.0})
        writer.flush()


def open_full(*_: str):
    return open("/dev/full", "wb")

"""A run prints its progress, and records each step once."""

import json
import os
import struct
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from tensorboard.compat.proto import event_pb2

from eomt_jax.training.reporting import event_file, logging
from eomt_jax.training.reporting.logging import MetricsWindow, MetricsWriter


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


def test_window_means_losses_and_takes_the_last_of_schedules():
    window = MetricsWindow()
    for loss, prob in ((1.0, 1.0), (2.0, 0.5), (6.0, 0.25)):
        metrics = {"loss": jnp.float32(loss), "mask_prob/0": jnp.float32(prob)}
        window.add(metrics, replaced=jnp.array([True, loss > 1]))
    assert (len(window), window.num_replaced) == (3, 5)
    means, num_finite, num_replaced = window.read()
    assert means == {"loss": 3.0, "mask_prob/0": 0.25}
    assert (num_finite, num_replaced) == (3, 5)
    # The window begins anew.
    window.add({"loss": jnp.float32(7.0)})
    assert window.read() == ({"loss": 7.0}, 1, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_window_counts_the_finite_steps_before_a_bad_one(bad):
    window = MetricsWindow()
    for norm in (1.0, 2.0, bad, 3.0):
        window.add({"loss": jnp.float32(0.5), "grad_norm": jnp.float32(norm)})
    assert window.read()[1] == 2


def test_window_does_not_wait_for_what_it_adds(monkeypatch):
    """At most two steps run at the same time; an older one is waited for."""
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    window = MetricsWindow()
    for step in range(5):
        window.add({"loss": jnp.float32(step)})
    assert len(waited) == 3


def test_progress_line_says_everything_a_newcomer_asks():
    metrics = {
        "loss": 20.5,
        "loss/mask": 8.25,
        "loss/dice": 10.0,
        "loss/class": 2.25,
        "loss/class_0": 1.0,
        "mask_prob/0": 0.5,
        "mask_prob/1": 1.0,
        "images_per_second": 35.21,
        "num_replaced": 0.0,
    }
    line = logging.format_progress(
        120, 1500, metrics, seconds_left=500.0, memory=(1_234_000_000, "process")
    )
    assert line == (
        "step  120/1500 | loss 20.50 = mask 8.25 + dice 10.00 + class 2.25"
        " | 35.2 images/s | 8 min left | 1.2 GB (process)"
        " | masked queries, layer by layer: 50% 100%"
    )
    line = logging.format_progress(
        120,
        1500,
        {**metrics, "num_replaced": 3.0},
        seconds_left=500.0,
        memory=(5, "device"),
    )
    assert line.endswith("| 3 images replaced by others")


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.4, "0 s"),
        (89.0, "89 s"),
        (90.0, "2 min"),
        (3599.0, "1 h 00 min"),
        (11_100.0, "3 h 05 min"),
        (183_600.0, "2 d 03 h"),
    ],
)
def test_duration_in_units_that_fit(seconds, text):
    assert logging.format_duration(seconds) == text


def test_memory_of_a_processor_is_the_process_s():
    size, whose = logging.memory_use()
    assert whose == "process"
    assert 50e6 < size < 100e9


def test_memory_of_an_accelerator_is_the_device_s(monkeypatch):
    class Device:
        def __init__(self, peak):
            self.peak = peak

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak, "bytes_in_use": 1}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(7), Device(9)])
    assert logging.memory_use() == (9, "device")


def test_stopwatch_leaves_pauses_out(monkeypatch):
    times = iter([10.0, 12.0, 15.0, 16.0, 20.0])
    monkeypatch.setattr(logging.time, "monotonic", lambda: next(times))
    stopwatch = logging.Stopwatch()  # at 10
    with stopwatch.pause():  # 12 to 15
        pass
    assert stopwatch.lap() == 3.0  # at 16
    assert stopwatch.lap() == 4.0  # at 20


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

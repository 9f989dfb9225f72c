"""A run prints its progress."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.training.reporting import logging
from eomt_jax.training.reporting.logging import MetricsWindow


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

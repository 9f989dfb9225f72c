"""Collects the metrics of a run's steps, and prints its progress."""

import collections
import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eomt_jax.types import Array

Scalars = dict[str, float]

# Reported as the last step used them; all else as the mean since the last report.
_SCHEDULES = ("learning_rate/", "mask_prob/")

# Steps that the host may be ahead of the device: enough to keep it busy, few enough
# that waiting batches don't fill its memory.
_MAX_STEPS_AHEAD = 2


def say(message: str) -> None:
    """Prints at once, from the main process alone."""
    if jax.process_index() == 0:
        print(message, flush=True)


class MetricsWindow:
    """Step metrics since the last reading, summed on the device.

    Adding never waits for what it adds, so that the host stays ahead of the device.
    """

    def __init__(self):
        self._ahead: collections.deque[Any] = collections.deque()
        self._totals: Any = None
        self._last: dict[str, jax.Array] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, metrics: dict[str, jax.Array], replaced: Array | None = None) -> None:
        """Takes one more step.

        Args:
          metrics: its scalars.
          replaced: bool [B], True for images that stand in for damaged ones.
        """
        if self._totals is None:
            zeros = {name: np.float32(0) for name in metrics}
            self._totals = (zeros, np.int32(0), np.int32(0))
        if replaced is None:
            replaced = np.zeros(0, bool)
        self._totals = _add(*self._totals, metrics, replaced)
        self._last = metrics
        self._count += 1
        self._ahead.append(self._totals)
        if len(self._ahead) > _MAX_STEPS_AHEAD:
            jax.block_until_ready(self._ahead.popleft())

    @property
    def num_replaced(self) -> int:
        """Images so far that stood in for others; waits for the device."""
        return int(jax.device_get(self._totals[2])) if self._count else 0

    def read(self, *, close: bool = True) -> tuple[Scalars, int, int]:
        """Waits for the device, and begins a new window unless `close` is False.

        Returns:
          The metrics, how many of the window's steps were finite before the first
          that was not (all of them in a sound run), and how many images stood in for
          others.
        """
        if not self._count:
            return {}, 0, 0
        totals, num_finite, num_replaced = jax.device_get(self._totals)
        means = {name: float(total) / self._count for name, total in totals.items()}
        schedules = {k: v for k, v in self._last.items() if k.startswith(_SCHEDULES)}
        means |= {name: float(v) for name, v in jax.device_get(schedules).items()}
        if close:
            self._totals, self._count = None, 0
            self._ahead.clear()
        return means, int(num_finite), int(num_replaced)


@jax.jit
def _add(
    totals: Any, num_finite: Any, num_replaced: Any, metrics: Any, replaced: Any
) -> Any:
    # A sum that is not finite stays so: every step from the first bad one on counts as
    # bad, and the number of finite steps is the bad one's place in the window.
    totals = {name: totals[name] + value for name, value in metrics.items()}
    finite = jnp.stack([jnp.isfinite(total) for total in totals.values()]).all()
    return totals, num_finite + finite, num_replaced + replaced.sum(dtype=jnp.int32)


class Stopwatch:
    """Time spent in steps, without what `pause` spans."""

    def __init__(self):
        self._start = time.monotonic()

    def lap(self) -> float:
        """Returns the seconds since the last lap, or since the beginning."""
        now = time.monotonic()
        seconds, self._start = now - self._start, now
        return max(seconds, 1e-9)

    def elapsed(self) -> float:
        """Returns the seconds since the last lap, which goes on."""
        return max(time.monotonic() - self._start, 1e-9)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves out what happens inside."""
        begin = time.monotonic()
        yield
        self._start += time.monotonic() - begin


def memory_use() -> tuple[int, str]:
    """Returns peak bytes and whose: "device", or "process" where devices don't say."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stat["peak_bytes_in_use"] for stat in stats if "peak_bytes_in_use" in stat]
    if peaks:
        return max(peaks), "device"
    # In bytes on macOS, in kilobytes elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process"


def format_progress(
    step: int,
    total_steps: int,
    metrics: Mapping[str, float],
    *,
    seconds_left: float,
    memory: tuple[int, str],
) -> str:
    """Returns the live line.

    Args:
      step: optimizer steps done.
      total_steps: of the whole run.
      metrics: `loss`, its weighted parts `loss/mask`, `loss/dice`, `loss/class`, the
        mask probabilities `mask_prob/0` …, `images_per_second` over all devices, and
        `num_replaced`, images that another one stood in for, shown if not 0.
      seconds_left: at this speed.
      memory: from `memory_use`.
    """
    width = len(str(total_steps))
    losses = [f"{k} {metrics[f'loss/{k}']:.2f}" for k in ("mask", "dice", "class")]
    probs = [v for name, v in metrics.items() if name.startswith("mask_prob/")]
    parts = [
        f"step {step:>{width}}/{total_steps}",
        f"loss {metrics['loss']:.2f} = " + " + ".join(losses),
        f"{metrics['images_per_second']:.3g} images/s",
        f"{format_duration(seconds_left)} left",
        f"{memory[0] / 1e9:.1f} GB ({memory[1]})",
    ]
    if probs:
        shares = " ".join(f"{prob:.0%}" for prob in probs)
        parts.append(f"masked queries, layer by layer: {shares}")
    if metrics.get("num_replaced"):
        parts.append(f"{metrics['num_replaced']:.0f} images replaced by others")
    return " | ".join(parts)


def format_duration(seconds: float) -> str:
    """Returns a text such as 42 s, 12 min, 3 h 05 min or 2 d 03 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60:02d} h"

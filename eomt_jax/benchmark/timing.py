"""Times jobs that take turns, so that a machine's changes of speed affect all alike."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times of one job.

    Attributes:
      name: the job's name.
      seconds: seconds of each round.
      first: seconds of the call before the rounds, which compiles.
    """

    name: str
    seconds: tuple[float, ...]
    first: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median

    def ratio_to(self, other: "Timing") -> float:
        """Returns how many times as long `other` took, as the median over rounds."""
        pairs = zip(other.seconds, self.seconds, strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def take_turns(
    jobs: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int = 1
) -> dict[str, Timing]:
    """Runs each job once in every round, in an order that changes between rounds.

    Args:
      jobs: functions that return when their work is done, or return JAX arrays to
        wait for.
      rounds: how often each job runs.
      warm_up: calls after the first one that aren't timed either.
    """
    names = list(jobs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    first = {name: _run(jobs[name]) for name in names}
    for _ in range(warm_up):
        for name in names:
            _run(jobs[name])
    for i in range(rounds):
        for name in _turned(names, i):
            seconds[name].append(_run(jobs[name]))
    return {name: Timing(name, tuple(seconds[name]), first[name]) for name in names}


def format_ratios(timings: Mapping[str, Timing], name: str, *ours: str) -> str:
    """Returns columns of a table: how many times as fast as `name` `ours` are.

    A column is empty if that one of ours wasn't timed. Each of ours is compared only
    with those before it.
    """
    compared = ours[ours.index(name) + 1 :] if name in ours else ours
    return " | ".join(
        f"{timings[own].ratio_to(timings[name]):.2f} ×"
        if own in timings and own in compared
        else ""
        for own in ours
    )


class MatrixRate:
    """A job that multiplies matrices, to measure the rate that this device can reach.

    A call multiplies once. It takes turns with other jobs, so that it is measured under
    the same conditions.

    Attributes:
      flops: FLOPs of one call.
    """

    def __init__(self, dtype: Any, *, size: int = 0):
        """
        Args:
          dtype: type of the matrices.
          size: length of their sides; by default 2048, and 8192 on an accelerator.
        """
        size = size or (2048 if jax.default_backend() == "cpu" else 8192)
        keys = jax.random.split(jax.random.key(0))
        self._matrices = [jax.random.normal(key, (size, size), dtype) for key in keys]
        self._multiply = jax.jit(jnp.matmul)
        self.flops = 2.0 * size**3

    def __call__(self) -> jax.Array:
        return self._multiply(*self._matrices)


def _turned(names: Sequence[str], by: int) -> Sequence[str]:
    by %= len(names)
    return [*names[by:], *names[:by]]


def _run(job: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(job())
    return time.perf_counter() - begin

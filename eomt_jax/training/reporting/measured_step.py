"""Measures the time and the memory of a training step on the devices at hand."""

import time
from typing import Any, NamedTuple

import jax

from eomt_jax.training.reporting.logging import format_duration, memory_use
from eomt_jax.training.setup import Setup
from eomt_jax.types import Batch

# Seconds of a first step after which a second one is not waited for.
_LONG = 10.0


class Measured(NamedTuple):
    """A step that was run.

    Attributes:
      seconds: that it took.
      peak: bytes at the peak, and whose, see `logging.memory_use`.
    """

    seconds: float
    peak: tuple[int, str]


def measure_step(run: Setup, compiled: Any, batch: Batch) -> Measured:
    """Runs a step, and a second one to be timed where the first is quick.

    Args:
      run: whose weights it starts from.
      compiled: its training step.
      batch: placed on the mesh.
    """
    state, seconds = run.create_state(), _LONG
    for _ in range(2):
        begin = time.monotonic()
        state, _ = jax.block_until_ready(compiled(state, batch))
        seconds = time.monotonic() - begin
        if seconds >= _LONG:
            break
    return Measured(seconds, memory_use())


def describe_time(run: Setup, measured: Measured) -> str:
    """Returns a sentence about the length of the run."""
    whole = format_duration(measured.seconds * run.total_steps)
    return (
        f"A step takes {measured.seconds:.2g} s here, {run.total_steps} steps {whole}. "
        "Evaluations come on top, and reading where it is slower than the step."
    )

"""Ends a run before its time: numbers that are not finite, and requests to stop."""

import collections
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint.multihost import reached_preemption

from eomt_jax.parallel.batch import owned_rows
from eomt_jax.parallel.processes import gather_rows
from eomt_jax.pipeline.samples import Source
from eomt_jax.training.checkpoints.saving import Checkpoints
from eomt_jax.training.reporting.logging import MetricsWindow, say
from eomt_jax.types import Batch

RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try once more.


class Interrupted(SystemExit):
    """A signal asked the run to stop and it is saved; its exit code is RUN_AGAIN."""


class NonFiniteError(RuntimeError):
    """The loss or the gradient is no longer a number."""


class OutOfMemoryError(RuntimeError):
    """The run does not fit into memory; the message says what to turn."""


class NonFiniteGuard:
    """Stops a run whose loss or gradient is no number, and says which images did it.

    It remembers the last batches' indices as they lie on the device, so that nothing
    waits for them unless there is something to tell.
    """

    def __init__(
        self, source: Source, checkpoints: Checkpoints, *, num_steps: int = 1000
    ):
        """Watches a run.

        Args:
          source: what the batches come from, to name their images.
          checkpoints: the run's, to name the last one.
          num_steps: how many batches back it can name.
        """
        self._source = source
        self._checkpoints = checkpoints
        self._batches: collections.deque[tuple[int, Any]] = collections.deque(
            maxlen=num_steps
        )

    def remember(self, step: int, batch: Batch) -> None:
        """Notes which images step number `step` (from 1) is about to see."""
        self._batches.append((step, batch.example_index))

    def check(self, step: int, params: Any, window: MetricsWindow) -> None:
        """Raises NonFiniteError when a parameter is not finite.

        Args:
          step: steps done.
          params: after these steps.
          window: metrics of the last of these steps.
        """
        if not _all_finite(params):
            self.check_metrics(step, num_steps=len(window), num_finite=window.read()[1])
            self.stop(step)

    def check_metrics(self, step: int, *, num_steps: int, num_finite: int) -> None:
        """Raises NonFiniteError unless the last `num_steps` of `step` were finite."""
        if num_finite < num_steps:
            self.stop(step - num_steps + num_finite + 1)

    def stop(self, step: int) -> None:
        """Raises NonFiniteError for step number `step`."""
        indices = dict(self._batches).get(step)
        images = "unknown"
        if indices is not None:
            rows = gather_rows(owned_rows(indices))
            images = ", ".join(self._source.image_id(row) for row in rows.tolist())
        self._checkpoints.wait()
        last = self._checkpoints.latest_step()
        saved = "there is none yet"
        if last is not None:
            saved = str(self._checkpoints.path(last))
        raise NonFiniteError(
            f"The loss or its gradient is not finite in step {step}, and the "
            f"parameters are lost with it. Last good checkpoint: {saved}. Images of "
            f"that step's batch: {images}. Look at these images and their targets; if "
            "they are sound, lower optimizer.learning_rate or optimizer.clip_norm."
        )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


@contextlib.contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turns XLA's out-of-memory error into one that says what to turn."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemoryError(
            "Out of device memory. What helps, the cheapest first: a smaller "
            "--config.batch_size; --config.model.remat=true (about a third slower); "
            "--config.mesh.fsdp=N to spread parameters and optimizer over N devices; "
            "a smaller --config.criterion.num_points; a smaller --config.image_size. "
            "--dry_run tells how much the step needs."
        ) from error


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a question, so that the run can save itself first.

    Before the first step, when there is nothing to save, one process stops at once. A
    second signal ends it as it would have without this; of several processes that is so
    once they have agreed.
    """

    def __init__(self):
        self._requested = False
        self._num_asked = 0
        self._previous: dict[int, Any] = {}

    def agreed(self) -> bool:
        """Returns whether to save now and stop; the same in all processes.

        A signal to one process is enough: JAX informs the others, and all stop at the
        first call that none of them has passed. Every process calls it equally often:
        after each step, and after each batch of an evaluation.
        """
        self._num_asked += 1
        if jax.process_count() > 1 and not self._requested:
            # Calls are counted, not steps: after a signal before the first call, JAX
            # waits for number 1, wherever a resumed run begins.
            self._requested = reached_preemption(self._num_asked)
            if self._requested and _in_main_thread():
                # JAX would go on noting a signal that nobody asks for any more.
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return self._requested

    def __enter__(self):
        if not _in_main_thread():  # only that one may set handlers
            return self
        if jax.process_count() > 1:
            # JAX itself listens to SIGTERM, see processes.initialize.
            self._handle(signal.SIGINT, self._pass_on)
        else:
            self._handle(signal.SIGINT, self._request)
            self._handle(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _handle(self, number: signal.Signals, handler: Any) -> None:
        self._previous[number] = signal.signal(number, handler)

    def _request(self, *_: object) -> None:
        self._requested = True
        self._restore()
        if not self._num_asked:
            say("Stopped by a signal; there was nothing new to save.")
            raise Interrupted(RUN_AGAIN)

    def _pass_on(self, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()

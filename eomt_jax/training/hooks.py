"""What happens beside the steps: evaluation, pictures, and stopping on purpose."""

import collections
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint.multihost import reached_preemption

from eomt_jax.evaluation.checkpoint import config_batches
from eomt_jax.evaluation.evaluator import evaluate, evaluation_task
from eomt_jax.evaluation.tables import GROUPS, Results, headline
from eomt_jax.inference.comparison import draw_comparison, evaluation_pictures
from eomt_jax.inference.runner import Runner
from eomt_jax.parallel.batch import local_rows, place_batch
from eomt_jax.parallel.processes import is_main
from eomt_jax.pipeline.loader import BatchIterator
from eomt_jax.pipeline.records import open_split
from eomt_jax.pipeline.samples import Source
from eomt_jax.training.checkpoint import Checkpoints
from eomt_jax.training.logging import MetricsWindow, Scalars
from eomt_jax.training.setup import Setup
from eomt_jax.training.stored_step import Score
from eomt_jax.types import Batch

RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try once more.


class Interrupted(SystemExit):
    """A signal asked the run to stop and it is saved; its exit code is RUN_AGAIN."""


class NonFiniteError(RuntimeError):
    """The loss or the gradient is no longer a number."""


class OutOfMemoryError(RuntimeError):
    """The run does not fit into memory; the message says what to turn."""


class Evaluation:
    """Scores the network on the evaluation split, and draws some of its images."""

    def __init__(self, setup: Setup):
        """Opens the split; the network compiles when first called.

        Raises:
          ValueError: the split's annotations can't tell how good it is at the task.
        """
        data = setup.config.dataset
        self._config = setup.config
        self._source = open_split(data.data_dir, data.name, data.eval_split)
        info = self._source.info
        self._runner = Runner(
            setup.initialization.model,
            info,
            task=evaluation_task(setup.config.eval.task, info),
            mesh=setup.mesh,
        )
        self._pictured: Batch | None = None

    def evaluate(self, params: Any) -> Results:
        """See evaluation.evaluator.evaluate."""
        with self._batches(self._config.eval.num_images) as batches:
            return evaluate(
                self._runner,
                params,
                batches,
                info=self._source.info,
                source=self._source,
            )

    def draw(self, params: Any) -> np.ndarray | None:
        """Predictions beside targets, the same images each time; uint8 [H, W, 3].

        All processes predict, the first one alone draws: the others get None.
        """
        num_pictures = self._config.logging.num_pictures
        if self._pictured is None:
            with self._batches(num_pictures) as batches:
                self._pictured = next(batches)
        batch = self._pictured
        prediction = self._runner(params, place_batch(batch, self._runner.mesh))
        prediction = local_rows(prediction)
        if not is_main():
            return None
        pictures = evaluation_pictures(
            batch, prediction, self._source, max_pictures=num_pictures
        )
        return draw_comparison(pictures, self._source.info)

    def _batches(self, num_images: int) -> BatchIterator:
        return config_batches(
            self._config, self._source, task=self._runner.task, num_images=num_images
        )


def result_scalars(results: Results) -> Scalars:
    """The means of an evaluation that exist, by name; panoptic ones by group too."""
    by_group = results["task"] == "panoptic"
    return {
        f"eval/{name}_{group}" if by_group else f"eval/{name}": value
        for group in GROUPS
        for name, value in results.get(group, {}).items()
        if name != "num_classes" and value is not None
    }


def result_score(results: Results) -> Score | None:
    """What checkpoints are compared by; None where there was nothing to measure."""
    name, value = headline(results)
    return None if value is None else Score(name, value)


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
            rows = local_rows(indices).tolist()
            images = ", ".join(self._source.image_id(row) for row in rows)
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

    A second signal ends the process at once, as it would have without this; of several
    processes that is so once they have agreed.
    """

    def __init__(self):
        self._requested = False
        self._previous: dict[int, Any] = {}

    def agreed(self, step: int) -> bool:
        """Whether to save after `step` and stop; the same in all processes.

        One process that was asked is enough: JAX tells the others, and all stop at the
        first step that none of them has passed. Call it once a step, in every process.

        Args:
          step: steps done; one more at each call.
        """
        if jax.process_count() > 1:
            self._requested = reached_preemption(step)
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

    def _pass_on(self, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()

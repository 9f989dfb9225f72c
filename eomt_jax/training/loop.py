"""Training: read, step, tell, save, until the run's last step."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from eomt_jax.options import from_config
from eomt_jax.parallel.batch import prefetch
from eomt_jax.parallel.compilation_cache import enable_compilation_cache
from eomt_jax.parallel.host_memory import keep_freed_memory
from eomt_jax.parallel.processes import check_shared_folder, is_main
from eomt_jax.training import guards
from eomt_jax.training.checkpoints.resume import resume
from eomt_jax.training.checkpoints.save_schedule import SaveSchedule
from eomt_jax.training.checkpoints.saving import Checkpoints
from eomt_jax.training.options import RunOptions
from eomt_jax.training.reporting import reviews, run_folder, trackers
from eomt_jax.training.reporting.logging import (
    MetricsWindow,
    Stopwatch,
    format_duration,
    format_progress,
    memory_use,
    say,
)
from eomt_jax.training.reporting.metrics_writer import MetricsWriter
from eomt_jax.training.setup import Setup, setup
from eomt_jax.training.state import TrainState
from eomt_jax.types import Batch
from eomt_jax.weights.native import model_folder


def train(
    config: ConfigDict,
    workdir: epath.PathLike,
    *,
    devices: Sequence[Any] | None = None,
) -> TrainState:
    """Trains as `config` says, or goes on from the newest checkpoint in `workdir`.

    Args:
      config: the recipe, see `setup.setup`.
      workdir: folder of the run; holds checkpoints, model.json, config.json,
        metrics.jsonl, TensorBoard files, evaluations and pictures.
      devices: all that JAX sees unless given.

    Returns:
      The state after the last step.

    Raises:
      ValueError: the config contradicts itself, the data, or the run in `workdir`; or
        none of its checkpoints can be read; or `workdir` is not one folder to all
        processes.
      StorageError: what the run has to write can't be written.
      guards.NonFiniteError: the loss or its gradient is no number.
      guards.OutOfMemoryError: the run does not fit.
      guards.Interrupted: a signal stopped the run; it is saved.
    """
    options = from_config(RunOptions, config)
    keep_freed_memory()
    enable_compilation_cache(options.compilation_cache)
    workdir = epath.Path(workdir).expanduser()
    run_folder.check(workdir)
    check_shared_folder(workdir)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(guards.StopRequest())
        stack.enter_context(guards.explain_out_of_memory())
        stack.enter_context(run_folder.explain_full_disk(workdir))
        checkpoints = Checkpoints(
            workdir / model_folder.STEPS_FOLDER,
            keep=options.checkpoint.keep,
            keep_best=options.checkpoint.keep_best,
        )
        stack.enter_context(checkpoints)
        if checkpoints.latest_step() is None:
            run = setup(config, devices=devices)
            state, step = run.create_state(), 0
        else:
            model = model_folder.read_model_config(workdir)
            run = setup(config, devices=devices, resumed=model)
            state, step = resume(checkpoints, run)
        left_out = reviews.left_out(run, workdir, step)
        if step >= run.total_steps and not any(left_out):
            say(f"Nothing to do: {checkpoints.path(step)} is the run's last step.")
        elif _ends_early(run, checkpoints, step) and not any(left_out):
            say("Nothing to do: to go on, raise eval.patience, or set it to 0.")
        else:
            if is_main():
                run_folder.describe(workdir, run, step=step)
            run = run.without_weights()
            writer = stack.enter_context(_open_writer(run, workdir, step))
            state = _run_steps(
                run, workdir, checkpoints, state, step, left_out, writer, stop, stack
            )
            best = checkpoints.best()
            if best is not None:
                writer.best(int(state.step), best)
        if checkpoints.best() is not None:
            say(checkpoints.describe_best())
        if step < run.total_steps:
            folder = workdir / "tensorboard"
            say(f"Curves: pip install tensorboard && tensorboard --logdir={folder}")
        return state


def _run_steps(
    run: Setup,
    workdir: epath.Path,
    checkpoints: Checkpoints,
    state: TrainState,
    step: int,
    left_out: reviews.Review,
    writer: MetricsWriter,
    stop: guards.StopRequest,
    stack: contextlib.ExitStack,
) -> TrainState:
    config, total_steps = run.config, run.total_steps
    reviewer = reviews.Reviewer(run, workdir, writer, stop)
    score, left = reviewer.make(left_out, step, state.network_params)
    writer.flush()
    if score is not None and config.checkpoint.keep_best:
        checkpoints.set_score(step, score)
    if left:
        raise guards.Interrupted(guards.RUN_AGAIN)
    if step >= total_steps or _ends_early(run, checkpoints, step):
        return state
    start = run.position(step).next_example
    batches = prefetch(run.train_batches(start_example=start), run.mesh)
    stack.callback(batches.close)
    guard = guards.NonFiniteGuard(run.source, checkpoints)
    schedule = SaveSchedule(
        config.checkpoint,
        ask_every=config.logging.every_steps,
        total_steps=total_steps,
    )
    window, stopwatch = MetricsWindow(), Stopwatch()
    num_replaced = checkpoints.read_num_replaced(step) if step else 0
    first_step = step + 1
    first = next(batches)
    train_step = compile_step(run.train_step, state, first)
    stopwatch.lap()

    for batch in itertools.chain([first], batches):
        guard.remember(step + 1, batch)
        state, metrics = train_step(state, batch)
        step += 1
        window.add(metrics, batch.replaced)
        checkpoints.check()
        stopping = stop.agreed()
        review = reviews.due(run, step)
        scored = review.evaluation and config.checkpoint.keep_best > 0
        save = schedule.due(step) or stopping or scored
        log_every = config.logging.every_steps
        due = log_every > 0 and (step % log_every == 0 or step == total_steps)
        # The first step is said at once, and written with the steps that follow.
        if due or (log_every > 0 and step == first_step):
            num_steps = len(window)
            metrics, num_finite, replaced = window.read(close=due)
            guard.check_metrics(step, num_steps=num_steps, num_finite=num_finite)
            seconds = (stopwatch.lap() if due else stopwatch.elapsed()) / num_steps
            metrics["images_per_second"] = config.batch_size / seconds
            metrics["num_replaced"] = num_replaced + replaced
            if due:
                num_replaced += replaced
                writer.scalars(step, metrics)
            say(
                format_progress(
                    step,
                    total_steps,
                    metrics,
                    seconds_left=seconds * (total_steps - step),
                    memory=memory_use(),
                )
            )
        if save or any(review):
            # Nothing is shown or kept of parameters that are lost.
            guard.check(step, state.params, window)
        score = None
        with stopwatch.pause():
            if not stopping:  # There may be no time; the next start makes it up.
                score, stopping = reviewer.make(review, step, state.network_params)
            if not config.checkpoint.keep_best:
                score = None  # By its scores a run's folder stands for its best step.
            # Before the checkpoint: a run that goes on from it writes nothing twice
            # and leaves nothing out.
            writer.flush()
            if save or stopping:
                checkpoints.save(
                    step,
                    state,
                    run.position(step),
                    score=score,
                    num_replaced=num_replaced + window.num_replaced,
                )
                schedule.saved()
        if stopping and (step < total_steps or any(review)):
            checkpoints.wait()
            say(f"Stopped by a signal; saved as {checkpoints.path(step)}.")
            raise guards.Interrupted(guards.RUN_AGAIN)
        if step == total_steps:
            checkpoints.wait()
            break
        if score is not None and config.eval.patience > 0:
            checkpoints.wait()  # The best is known when it is written.
            if _ends_early(run, checkpoints, step):
                break
    return state


def _open_writer(run: Setup, workdir: epath.Path, step: int) -> MetricsWriter:
    """Returns the writer of the first process; the others have nothing more to say."""
    if not is_main():
        return MetricsWriter(workdir, step=step, enabled=False)
    options = run.config.logging
    shown = trackers.RunToShow(
        project=options.project,
        name=options.run_name or workdir.resolve().name,
        config=dataclasses.asdict(run.config),
        folder=workdir,
    )
    tracking = trackers.create(options.tracker, shown)
    return MetricsWriter(workdir, step=step, tracking=tracking)


def _ends_early(run: Setup, checkpoints: Checkpoints, step: int) -> bool:
    """Returns whether the evaluations no longer improve, and says so."""
    best = checkpoints.best()
    if best is None or not reviews.patience_is_over(run, step, best):
        return False
    say(
        f"Stopped early after step {step}: {run.config.eval.patience} evaluations in a "
        f"row (eval.patience) were no better than {best[1].name} {best[1].value:.1f} "
        f"after step {best[0]}."
    )
    return True


def compile_step(train_step: Any, state: TrainState, batch: Batch) -> Any:
    """Compiles the step, and says so before and after.

    Args:
      train_step: from `step.make_train_step`.
      state: or its shapes.
      batch: or its shapes.
    """
    devices = jax.tree.leaves(state.params)[0].sharding.device_set
    kind = next(iter(devices)).device_kind
    say(f"Compiling the training step for {len(devices)} × {kind} …")
    begin = time.monotonic()
    compiled = train_step.lower(state, batch).compile()
    say(f"Compiled in {format_duration(time.monotonic() - begin)}.")
    return compiled

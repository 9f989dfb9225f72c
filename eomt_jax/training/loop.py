"""Training: read, step, tell, save, until the run's last step."""

import contextlib
import itertools
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from eomt_jax.evaluation.tables import format_table, write_results
from eomt_jax.inference.comparison import write_picture
from eomt_jax.parallel.batch import prefetch
from eomt_jax.parallel.compilation_cache import enable_compilation_cache
from eomt_jax.parallel.processes import check_shared_folder, is_main
from eomt_jax.training import hooks, run_folder
from eomt_jax.training.checkpoint import Checkpoints
from eomt_jax.training.logging import (
    MetricsWindow,
    MetricsWriter,
    Stopwatch,
    format_duration,
    format_progress,
    memory_use,
    say,
)
from eomt_jax.training.resume import resume
from eomt_jax.training.save_schedule import SaveSchedule
from eomt_jax.training.setup import Config, Setup, setup
from eomt_jax.training.state import TrainState
from eomt_jax.types import Batch
from eomt_jax.weights import native


def train(
    config: Config,
    workdir: epath.PathLike,
    *,
    devices: Sequence[Any] | None = None,
) -> TrainState:
    """Trains as `config` says, or goes on from the newest checkpoint in `workdir`.

    Args:
      config: as configs/common.py lists it.
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
      hooks.NonFiniteError: the loss or its gradient is no number.
      hooks.OutOfMemoryError: the run does not fit.
      hooks.Interrupted: a signal stopped the run; it is saved.
    """
    enable_compilation_cache(config.compilation_cache)
    workdir = epath.Path(workdir).expanduser()
    run_folder.check(workdir)
    check_shared_folder(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(hooks.explain_out_of_memory())
        stack.enter_context(run_folder.explain_full_disk(workdir))
        checkpoints = Checkpoints(
            workdir / native.STEPS_FOLDER,
            keep=config.checkpoint.keep,
            keep_best=config.checkpoint.keep_best,
        )
        stack.enter_context(checkpoints)
        if checkpoints.latest_step() is None:
            run = setup(config, devices=devices)
            state, step = run.create_state(), 0
        else:
            model = native.read_model_config(workdir)
            run = setup(config, devices=devices, resumed=model)
            state, step = resume(checkpoints, run)
        if step >= run.total_steps:
            say(f"Nothing to do: {checkpoints.path(step)} is the run's last step.")
        else:
            if is_main():
                run_folder.describe(workdir, run, resumed=step > 0)
            state = _run_steps(run, workdir, checkpoints, state, step, stack)
        if checkpoints.best() is not None:
            say(checkpoints.describe_best())
        return state


def _run_steps(
    run: Setup,
    workdir: epath.Path,
    checkpoints: Checkpoints,
    state: TrainState,
    step: int,
    stack: contextlib.ExitStack,
) -> TrainState:
    config, total_steps = run.config, run.total_steps
    stop = stack.enter_context(hooks.StopRequest())
    # Not written to by other processes: they have nothing that the first hasn't.
    writer = stack.enter_context(MetricsWriter(workdir, step=step, enabled=is_main()))
    start = run.position(step).next_example
    batches = prefetch(run.train_batches(start_example=start), run.mesh)
    stack.callback(batches.close)
    evaluation = hooks.Evaluation(run)
    guard = hooks.NonFiniteGuard(run.source, checkpoints)
    schedule = SaveSchedule(
        every_steps=config.checkpoint.every_steps,
        every_minutes=config.checkpoint.every_minutes,
        ask_every=config.logging.every_steps,
        total_steps=total_steps,
    )
    window, stopwatch, num_replaced = MetricsWindow(), Stopwatch(), 0
    first = next(batches)
    train_step = compile_step(run.train_step, state, first)
    stopwatch.lap()

    def due(every_steps: int) -> bool:
        return every_steps > 0 and (step % every_steps == 0 or step == total_steps)

    for batch in itertools.chain([first], batches):
        guard.remember(step + 1, batch)
        state, metrics = train_step(state, batch)
        step += 1
        window.add(metrics, batch.replaced)
        checkpoints.check()
        stopping = stop.agreed(step)
        num_pictures = config.logging.num_pictures
        picture = num_pictures > 0 and due(config.logging.picture_every_steps)
        evaluate = due(config.eval.every_steps)
        keep_best = evaluate and config.checkpoint.keep_best > 0
        save = schedule.due(step) or stopping or keep_best
        if due(config.logging.every_steps):
            num_steps = len(window)
            metrics, num_finite, replaced = window.read()
            guard.check_metrics(step, num_steps=num_steps, num_finite=num_finite)
            seconds = stopwatch.lap() / num_steps
            num_replaced += replaced
            metrics["images_per_second"] = config.batch_size / seconds
            metrics["num_replaced"] = num_replaced
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
        if save or picture or evaluate:
            # Nothing is shown or kept of parameters that are lost.
            guard.check(step, state.params, window)
        score = None
        with stopwatch.pause():
            if evaluate:
                results = evaluation.evaluate(state.params)
                score = hooks.result_score(results)
                writer.scalars(step, hooks.result_scalars(results))
                say(f"Evaluation after step {step}, without masked attention:")
                say(format_table(results, per_class=step == total_steps))
                if is_main():
                    write_results(results, workdir / f"evaluations/{step:08d}.json")
            if picture:
                drawn = evaluation.draw(state.params)
                if drawn is not None:
                    writer.image(step, "predictions", drawn)
                    write_picture(workdir / f"pictures/{step:08d}.png", drawn)
            # Before the checkpoint: a run that goes on from it writes nothing twice
            # and leaves nothing out.
            writer.flush()
            if save:
                checkpoints.save(step, state, run.position(step), score=score)
                schedule.saved()
        if step == total_steps:
            checkpoints.wait()
            break
        if stopping:
            checkpoints.wait()
            say(f"Stopped by a signal; saved as {checkpoints.path(step)}.")
            raise hooks.Interrupted(hooks.RUN_AGAIN)
    return state


def compile_step(train_step: Any, state: TrainState, batch: Batch) -> Any:
    """The step as a compiled program, with a word before and after.

    Args:
      train_step: from `step.make_train_step`.
      state: or its shapes.
      batch: or its shapes.
    """
    devices = jax.tree.leaves(state.params)[0].sharding.device_set
    kind = next(iter(devices)).device_kind
    say(f"Compiling the training step for {len(devices)} × {kind}, once each start …")
    begin = time.monotonic()
    compiled = train_step.lower(state, batch).compile()
    say(f"Compiled in {format_duration(time.monotonic() - begin)}.")
    return compiled

"""Training: read, step, tell, save, until the run's last step."""

import contextlib
import itertools
import json
import textwrap
import time
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from eomt_jax.evaluation.tables import format_table, write_results
from eomt_jax.inference.comparison import write_picture
from eomt_jax.parallel.batch import prefetch
from eomt_jax.parallel.compilation_cache import enable_compilation_cache
from eomt_jax.parallel.processes import is_main
from eomt_jax.training import hooks
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
from eomt_jax.training.parameter_report import format_report
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
      ValueError: the config contradicts itself, the data, or the run in `workdir`.
      hooks.NonFiniteError: the loss or its gradient is no number.
      hooks.OutOfMemoryError: the run does not fit.
      hooks.Interrupted: a signal stopped the run; it is saved.
    """
    enable_compilation_cache(config.compilation_cache)
    workdir = epath.Path(workdir).expanduser()
    with contextlib.ExitStack() as stack:
        stack.enter_context(hooks.explain_out_of_memory())
        checkpoints = stack.enter_context(
            Checkpoints(workdir / native.STEPS_FOLDER, keep=config.checkpoint.keep)
        )
        step = checkpoints.latest_step()
        resumed = None if step is None else native.read_model_config(workdir)
        run = setup(config, devices=devices, resumed=resumed)
        if step is None:
            state, step = run.create_state(), 0
        else:
            state = _restore(run, checkpoints, step)
        if step >= run.total_steps:
            say(f"Nothing to do: {checkpoints.path(step)} is the run's last step.")
            return state
        if is_main():
            _describe_run(workdir, run, resumed=step > 0)
        return _run_steps(run, workdir, checkpoints, state, step, stack)


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
        save = due(config.checkpoint.every_steps) or stop.requested
        num_pictures = config.logging.num_pictures
        picture = num_pictures > 0 and due(config.logging.picture_every_steps)
        evaluate = due(config.eval.every_steps)
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
        with stopwatch.pause():
            if evaluate:
                results = evaluation.evaluate(state.params)
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
                checkpoints.save(step, state, run.position(step))
        if step == total_steps:
            break
        if stop.requested:
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


def _restore(run: Setup, checkpoints: Checkpoints, step: int) -> TrainState:
    path = checkpoints.path(step)
    saved = checkpoints.read_position(step)
    saved.check_same_stream(run.position(step), folder=checkpoints.folder)
    say(f"Going on from {path}.")
    return checkpoints.restore(step, run.abstract_state())


def _describe_run(workdir: epath.Path, run: Setup, *, resumed: bool) -> None:
    """Writes model.json and config.json; tells what differs from the run resumed."""
    start = run.initialization
    if start.loaded is not None:
        report = format_report(start.report, start.notes)
        say(f"Parameters\n{textwrap.indent(report, '  ')}")
    path = workdir / "config.json"
    config = json.loads(run.config.to_json())
    if resumed and path.exists():
        before = _flatten(json.loads(path.read_text()))
        for name, value in _flatten(config).items():
            if before.get(name) != value:
                say(
                    f"Changed since this run began: {name} from {before.get(name)!r}"
                    f" to {value!r}."
                )
    path.write_text(json.dumps(config, indent=2) + "\n")
    model = native.ModelConfig.of(run.initialization.model, run.info)
    native.save_model_config(workdir, model)


def _flatten(tree: dict[str, Any], prefix: str = "config.") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        inner = isinstance(value, dict)
        flat |= _flatten(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat

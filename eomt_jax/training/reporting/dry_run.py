"""A run's first look at itself: config, parameters, first batch, time and memory."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from eomt_jax.options import fields_of
from eomt_jax.parallel.batch import place_batch
from eomt_jax.parallel.compilation_cache import enable_compilation_cache
from eomt_jax.parallel.host_memory import keep_freed_memory
from eomt_jax.parallel.processes import is_main
from eomt_jax.pictures.comparison import (
    draw_comparison,
    training_pictures,
    write_picture,
)
from eomt_jax.training import guards
from eomt_jax.training.loop import compile_step
from eomt_jax.training.reporting.logging import say
from eomt_jax.training.reporting.measured_step import describe_time, measure_step
from eomt_jax.training.reporting.parameter_report import format_report
from eomt_jax.training.reporting.step_memory import describe_memory, fits
from eomt_jax.training.run_schedule import configured_annealing_steps
from eomt_jax.training.schedules import warmup_steps
from eomt_jax.training.setup import Setup, setup
from eomt_jax.types import Batch

_WITHOUT_ANNEALING = {
    "unmasked": "attention is never masked; every masked layer predicts and has a loss",
    "last_prediction_only": "attention is never masked; the last prediction alone is "
    "made and has a loss",
    "masked": "attention is masked in all masked layers until the end",
}


def dry_run(
    config: ConfigDict,
    workdir: epath.PathLike,
    *,
    measure: bool = True,
    devices: Sequence[Any] | None = None,
) -> None:
    """Prints what `loop.train` would do, and draws its first batch.

    The training step is compiled, which takes as long as it does in training. Writes
    `workdir`/first_batch.png and nothing else.

    Args:
      config: the recipe, see `setup.setup`.
      workdir: folder of the run.
      measure: whether to run a step or two, which tells their time and memory.
      devices: all that JAX sees unless given.
    """
    keep_freed_memory()
    run = setup(config, devices=devices)
    enable_compilation_cache(run.config.compilation_cache)
    fields = fields_of(dataclasses.asdict(run.config)).items()
    recipe = "\n".join(f"{name} = {value!r}" for name, value in fields)
    say(f"Config\n{_indent(recipe)}")
    say(f"Schedule\n{_indent(_describe_schedule(run))}")
    start = run.initialization
    say(f"Parameters\n{_indent(format_report(start.report, start.notes))}")
    for warning in run.warnings:
        say(warning)
    with run.train_batches(start_example=0) as batches:
        batch = next(batches)
    if is_main():
        path = epath.Path(workdir).expanduser() / "first_batch.png"
        write_picture(path, draw_batch(batch, run, run.config.logging.num_pictures))
        say(f"First batch, as the network sees it, with its targets: {path}")
    with guards.explain_out_of_memory():
        placed = place_batch(batch, run.mesh)
        compiled = compile_step(run.train_step, run.abstract_state(), placed)
        analysis = compiled.memory_analysis()
        measured = None
        if measure and fits(run, analysis):
            measured = measure_step(run, compiled, placed)
            say(f"Time\n{_indent(describe_time(run, measured))}")
        memory = describe_memory(run, analysis, measured)
        say(f"Memory on each device\n{_indent(memory)}")


def draw_batch(batch: Batch, run: Setup, num_pictures: int) -> np.ndarray:
    """Draws images of a training batch beside their targets; uint8 [H, W, 3]."""
    pictures = training_pictures(batch, max_pictures=num_pictures)
    return draw_comparison(pictures, run.info, titles=("target", "image"))


def _describe_schedule(run: Setup) -> str:
    config, total_steps = run.config, run.total_steps
    num_examples = len(run.source)
    epochs = total_steps * config.batch_size / num_examples
    head, vit = warmup_steps(config.optimizer, total_steps=total_steps)
    lines = [
        f"{total_steps} steps of {config.batch_size} images: {epochs:.1f} epochs of "
        + f"{num_examples} images",
        f"warm-up: {head} steps outside the ViT, then {vit} steps of the ViT",
    ]
    if config.optimizer.frozen_blocks:
        params = run.abstract_state().params
        sizes = [
            sum(leaf.size for leaf in jax.tree.leaves(tree))
            for tree in (params, run.trainable(params))
        ]
        lines.append(f"frozen: {sizes[0] - sizes[1]:,} of {sizes[0]:,} parameters")
    if config.annealing.enabled:
        starts_and_ends = configured_annealing_steps(
            config,
            total_steps=total_steps,
            num_masked_layers=run.initialization.model.num_masked_layers,
        )
        spans = zip(*starts_and_ends)
        spans = ", ".join(f"{start} to {end}" for start, end in spans)
        lines.append(f"masked attention fades out, layer by layer: steps {spans}")
    else:
        lines.append(_WITHOUT_ANNEALING[config.annealing.if_disabled])
    return "\n".join(lines)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())

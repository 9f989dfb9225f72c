"""Says where a run's schedules jump to when it goes on with another length."""

import dataclasses
from typing import Any

from eomt_jax.training import schedules
from eomt_jax.training.options import RunOptions
from eomt_jax.training.run_schedule import count_steps, mask_probs_schedule
from eomt_jax.training.setup import Setup


def describe_changed_length(run: Setup, before: dict[str, Any], step: int) -> str:
    """Returns how another length moves learning rate and masks; "" where it is the same.

    Args:
      run: as it goes on.
      before: the fields of the config that the run had, by their dotted names.
      step: steps done.
    """
    try:
        old = dataclasses.replace(
            run.config, total_steps=before["total_steps"], epochs=before["epochs"]
        )
        old_steps = count_steps(old, num_examples=len(run.source))
        then = _at(old, run, old_steps, step)
    except (KeyError, TypeError, ValueError):  # It only serves to compare.
        return ""
    if old_steps == run.total_steps:
        return ""
    now = _at(run.config, run, run.total_steps, step)
    masked = (
        f"; of the queries {now[1]} are masked, layer by layer, there {then[1]}"
        if run.config.annealing.enabled
        else ""
    )
    return (
        f"All schedules follow the new length. After step {step} the learning rate "
        f"outside the ViT is {now[0]:.3g}, at the old length of {old_steps} steps it is "
        f"{then[0]:.3g}{masked}. To train on from the weights alone with schedules of their own, "
        "give a new --workdir and this run as --config.init.checkpoint."
    )


def _at(
    config: RunOptions, run: Setup, total_steps: int, step: int
) -> tuple[float, str]:
    """Returns a step's learning rate outside the ViT and shares of masked queries."""
    head_rate, _ = schedules.learning_rate_schedules(
        config.optimizer, total_steps=total_steps
    )
    mask_probs = mask_probs_schedule(
        config,
        total_steps=total_steps,
        num_masked_layers=run.initialization.model.num_masked_layers,
    )
    probs = mask_probs(step)
    shares = "" if probs is None else " ".join(f"{p:.0%}" for p in probs.tolist())
    return float(head_rate(step)), shares

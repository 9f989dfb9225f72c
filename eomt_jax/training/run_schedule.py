"""Length and mask annealing of a run, as its config says."""

import jax.numpy as jnp

from eomt_jax.pipeline import loader
from eomt_jax.training import schedules
from eomt_jax.training.options import RunOptions


def count_steps(config: RunOptions, *, num_examples: int) -> int:
    """Returns the run's length: `total_steps`, or that of `epochs` if it is 0."""
    if config.total_steps:
        return config.total_steps
    length = loader.epoch_length(num_examples, config.batch_size)
    total_steps = config.epochs * length // config.batch_size
    if not total_steps:
        raise ValueError("set total_steps or epochs: both are 0")
    return total_steps


def configured_annealing_steps(
    config: RunOptions, *, total_steps: int, num_masked_layers: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the config's (starts, ends) of each query block's mask annealing.

    Args:
      config: the recipe.
      total_steps: length of the run.
      num_masked_layers: L2.
    """
    nominal_steps = round(total_steps * config.annealing.length)
    first_block_end = schedules.shorten(
        config.annealing.first_block_end,
        total_steps=total_steps,
        published_steps=config.optimizer.published_steps,
    )
    return schedules.annealing_steps(
        nominal_steps, num_masked_layers, first_block_end=first_block_end
    )


def mask_probs_schedule(
    config: RunOptions, *, total_steps: int, num_masked_layers: int
) -> schedules.MaskSchedule:
    """Returns a function: step → probability that each masked layer masks [L2].

    It returns None if no layer but the last predicts. The arguments are those of
    `configured_annealing_steps`.
    """
    if not config.annealing.enabled:
        constant = {
            "unmasked": jnp.zeros(num_masked_layers),
            "masked": jnp.ones(num_masked_layers),
            "last_prediction_only": None,
        }[config.annealing.if_disabled]
        return lambda step: constant
    starts, ends = configured_annealing_steps(
        config, total_steps=total_steps, num_masked_layers=num_masked_layers
    )
    power = config.annealing.power
    return lambda step: schedules.mask_probs(
        step, starts=starts, ends=ends, power=power
    )

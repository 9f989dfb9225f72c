"""Mask probabilities and learning rates as pure functions of the step.

A step counts the optimizer steps already done: the first batch sees step 0.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eomt_jax.options import MAX_STEPS, Choice, Flag, Real, Whole, option

Step = int | jax.Array
Schedule = Callable[[Step], jax.Array]
MaskSchedule = Callable[[Step], jax.Array | None]

_STEPS = Whole(0, MAX_STEPS)
_POWER = Real(0.0, 100.0, above=True)


@dataclasses.dataclass(frozen=True)
class AnnealingOptions:
    """The fading out of masked attention."""

    enabled: bool = option(
        True,
        Flag(),
        "Masked attention fades out over the run, layer by layer; false trains as "
        "if_disabled says.",
    )
    if_disabled: str = option(
        "unmasked",
        Choice(("unmasked", "last_prediction_only", "masked")),
        "Without annealing attention is never masked, though every masked layer still "
        'predicts and has its loss ("unmasked"); or the last prediction alone is made '
        'and has a loss, which the paper calls never masked ("last_prediction_only"); '
        'or all masked layers mask until the end ("masked").',
    )
    power: float = option(
        0.9, _POWER, "The probability of a mask falls as a polynomial of this exponent."
    )
    # Not every list of the release is of the length that its data give.
    length: float = option(
        1.0,
        Real(0.0, 100.0, above=True),
        "All steps of the annealing are fractions of this part of the run's length.",
    )
    first_block_end: int = option(
        0,
        _STEPS,
        "The first block fades out from step 0 to this one of a run of "
        "optimizer.published_steps; 0 goes by the rule of the other blocks.",
    )


@dataclasses.dataclass(frozen=True)
class RateOptions:
    """The rise and fall of learning rates."""

    learning_rate: float = option(
        1e-4,
        Real(0.0, 1.0, above=True),
        "This is the highest learning rate, outside the ViT and in its last block.",
    )
    warmup_head: int = option(
        500,
        _STEPS,
        "Outside the ViT the rate rises for this many steps of a run of "
        "published_steps.",
    )
    warmup_vit: int = option(
        1000,
        _STEPS,
        "The ViT's rate is 0 meanwhile, and then rises for this many steps of a run of "
        "published_steps.",
    )
    power: float = option(
        0.9,
        _POWER,
        "After the warm-ups rates fall to 0 as a polynomial of this exponent.",
    )
    published_steps: int = option(
        88_692,
        _STEPS,
        "A run of fewer steps than this shortens warm-ups and first_block_end by the "
        "same factor; 0 keeps them.",
    )


def annealing_steps(
    total_steps: int, num_masked_layers: int, *, first_block_end: int = 0
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the first and last step of each query block's mask annealing.

    The published lists follow one rule of the run's length T: block i starts at
    T/6 + i·(T/2)/(L2 − 1) and takes T/6 steps, early blocks first. With DINOv3 most
    of them let the first block go from step 0 to 3000 and keep the others.

    Args:
      total_steps: T, the nominal length of the run in optimizer steps.
      num_masked_layers: L2, the number of blocks that the queries go through.
      first_block_end: last step of the first block, which then starts at 0; 0 leaves
        it to the rule.

    Returns:
      (starts, ends), L2 steps each, rounded half up.
    """
    if total_steps < 1 or num_masked_layers < 1:
        raise ValueError(
            "annealing needs total_steps ≥ 1 and num_masked_layers ≥ 1, got "
            f"{total_steps} and {num_masked_layers}"
        )
    if not 0 <= first_block_end <= total_steps:
        raise ValueError(
            f"annealing.first_block_end = {first_block_end} must lie between 0 and the "
            f"annealing's length of {total_steps} steps; in a run shorter than "
            "optimizer.published_steps it is shortened as much"
        )
    gap = total_steps / 2 / max(num_masked_layers - 1, 1)
    starts = [total_steps / 6 + i * gap for i in range(num_masked_layers)]
    ends = [start + total_steps / 6 for start in starts]
    if first_block_end:
        starts[0], ends[0] = 0, first_block_end
    return tuple(int(s + 0.5) for s in starts), tuple(int(e + 0.5) for e in ends)


def mask_probs(
    step: Step, *, starts: Sequence[int], ends: Sequence[int], power: float
) -> Float[Array, " L2"]:
    """Returns the probability that each query block is masked, at one step.

    It is 1 before a block's start, 0 from its end on, and between them
    (1 − (t − start)/(end − start))^power.
    """
    if len(starts) != len(ends) or any(a > b for a, b in zip(starts, ends)):
        raise ValueError(
            "annealing needs one end for each start and none before it, got starts "
            f"{tuple(starts)} and ends {tuple(ends)}"
        )
    start = jnp.asarray(starts, jnp.float32)
    end = jnp.asarray(ends, jnp.float32)
    t = jnp.asarray(step, jnp.float32)
    # 1 − progress as one quotient of whole numbers: no cancellation near the end. A
    # block without a transition (start = end) must not divide by zero.
    left = jnp.clip((end - t) / jnp.maximum(end - start, 1.0), 0.0, 1.0)
    return jnp.where(t >= end, 0.0, jnp.where(t < start, 1.0, left**power))


def shorten(steps: int, *, total_steps: int, published_steps: int) -> int:
    """Returns `steps` of a run of published_steps, as many of one of total_steps.

    A longer run keeps them; `published_steps` = 0 always does.
    """
    scale = min(1.0, total_steps / published_steps) if published_steps else 1.0
    return int(steps * scale + 0.5)


def warmup_steps(options: RateOptions, *, total_steps: int) -> tuple[int, int]:
    """Returns the lengths W1 and W2 of the warm-ups, shortened as much as the run."""
    head, vit = (
        shorten(steps, total_steps=total_steps, published_steps=options.published_steps)
        for steps in (options.warmup_head, options.warmup_vit)
    )
    if head + vit >= total_steps:
        raise ValueError(
            f"the warm-ups take {head} + {vit} steps and leave nothing of "
            f"total_steps = {total_steps}; lower optimizer.warmup_head and "
            "optimizer.warmup_vit or set optimizer.published_steps"
        )
    return head, vit


def learning_rate_schedules(
    options: RateOptions, *, total_steps: int
) -> tuple[Schedule, Schedule]:
    """Returns learning rates by step, outside the ViT and of the ViT.

    Those of the ViT are before layer-wise decay. Outside the ViT the rate rises
    linearly for W1 steps; the ViT rests meanwhile and then rises for W2 steps. Both
    fall to 0 at `total_steps` as a polynomial.
    """
    head, vit = warmup_steps(options, total_steps=total_steps)

    def rate(step: Step, *, begin: int, warmup: int) -> jax.Array:
        # Quotients of whole numbers, as above; float32 is exact up to 2^24 steps.
        t = jnp.asarray(step, jnp.float32)
        rise = jnp.clip((t - begin) / max(warmup, 1), 0.0, 1.0)
        left = (total_steps - t) / (total_steps - begin - warmup)
        fall = jnp.clip(left, 0.0, 1.0) ** options.power
        return options.learning_rate * jnp.where(t < begin + warmup, rise, fall)

    def head_rate(step: Step) -> jax.Array:
        return rate(step, begin=0, warmup=head)

    def vit_rate(step: Step) -> jax.Array:
        return rate(step, begin=head, warmup=vit)

    return head_rate, vit_rate

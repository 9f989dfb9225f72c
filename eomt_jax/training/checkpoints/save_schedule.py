"""Decides when a run saves a checkpoint; `saving` decides which of them stay."""

import dataclasses
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from eomt_jax.options import MAX_STEPS, Whole, option

# Steps between looks at the clock where nothing is logged.
_ASK_EVERY = 50


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """Rules for saving checkpoints and for keeping them."""

    every_steps: int = option(
        1000,
        Whole(0, MAX_STEPS),
        "A checkpoint is saved after every so many steps and at the end; 0 leaves it to "
        "every_minutes.",
    )
    every_minutes: int = option(
        0,
        Whole(0, 10**6),
        "A checkpoint is saved this many minutes after the last one, too; 0 leaves it "
        "to every_steps.",
    )
    keep: int = option(3, Whole(1, 10**6), "This many of the newest checkpoints stay.")
    keep_best: int = option(
        0,
        Whole(0, 10**6),
        "This many checkpoints of the best evaluations stay as well, each of which then "
        "saves one; the run's folder stands for the best.",
    )


class SaveSchedule:
    """Says after which steps a checkpoint is due: every so many, or after a while.

    All processes get the same answer: by the first one's clock, which the others ask
    only now and then, for asking is a communication among all of them.
    """

    def __init__(
        self,
        options: CheckpointOptions,
        *,
        ask_every: int,
        total_steps: int,
    ):
        """Starts the clock.

        Args:
          options: after how many steps and minutes; at 0 of both nothing is ever due.
          ask_every: steps between looks at the clock, those of logging; 0: 50 steps.
          total_steps: length of the run, which ends with a checkpoint.
        """
        self._every_steps = options.every_steps
        self._seconds = 60 * options.every_minutes
        self._ask_every = ask_every or _ASK_EVERY
        self._total_steps = total_steps
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Returns whether to save after `step`; every process asks after every step."""
        if not (self._every_steps or self._seconds):
            return False
        by_steps = self._every_steps > 0 and step % self._every_steps == 0
        by_time = self._seconds > 0 and step % self._ask_every == 0 and self._is_late()
        return by_steps or by_time or step == self._total_steps

    def saved(self) -> None:
        """Starts the clock again: a checkpoint is saved, for whatever reason."""
        self._last = time.monotonic()

    def _is_late(self) -> bool:
        late = time.monotonic() - self._last >= self._seconds
        if jax.process_count() == 1:
            return late
        return bool(multihost_utils.broadcast_one_to_all(np.bool_(late)))

"""When a run saves itself."""

import time

import jax
import numpy as np
from jax.experimental import multihost_utils

# Steps between looks at the clock where nothing is logged.
_ASK_EVERY = 50


class SaveSchedule:
    """Says after which steps a checkpoint is due: every so many, or after a while.

    All processes get the same answer: by the first one's clock, which the others ask
    only now and then, for asking is a communication among all of them.
    """

    def __init__(
        self,
        *,
        every_steps: int,
        every_minutes: int,
        ask_every: int,
        total_steps: int,
    ):
        """Starts the clock.

        Args:
          every_steps: 0 leaves it to the clock; at 0 of both nothing is ever due.
          every_minutes: since the last checkpoint; 0 leaves it to the steps.
          ask_every: steps between looks at the clock, those of logging; 0: 50 steps.
          total_steps: length of the run, which ends with a checkpoint.
        """
        if every_steps < 0 or every_minutes < 0:
            raise ValueError(
                f"checkpoint.every_steps = {every_steps} and checkpoint.every_minutes "
                f"= {every_minutes}: neither may be negative"
            )
        self._every_steps = every_steps
        self._seconds = 60 * every_minutes
        self._ask_every = ask_every or _ASK_EVERY
        self._total_steps = total_steps
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after `step`; every process must ask, after every step."""
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

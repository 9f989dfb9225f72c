"""Runs train.py with at most ten steps a second and short limits for lost processes.

python -m tests.chaos.impatient --config=… --workdir=…
"""

import time

from absl import app

import train
from eomt_jax.cli import config_flag
from eomt_jax.parallel import ending
from eomt_jax.training import guards

remember = guards.NonFiniteGuard.remember


def remember_slowly(*arguments):
    """Sleeps before each step, since a signal takes a second to reach all processes."""
    time.sleep(0.1)
    remember(*arguments)


guards.NonFiniteGuard.remember = remember_slowly
ending.BEAT_SECONDS = 0.5
ending.LOST_SECONDS = 8.0

if __name__ == "__main__":
    app.run(train.main, flags_parser=config_flag.parse_flags)

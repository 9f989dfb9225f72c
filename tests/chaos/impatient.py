"""train.py with ten steps a second at most, whose processes miss one another soon.

python -m tests.chaos.impatient --config=… --workdir=…
"""

import time

from absl import app

import train
from eomt_jax.cli import config_flag
from eomt_jax.parallel import ending
from eomt_jax.training import hooks

remember = hooks.NonFiniteGuard.remember


def remember_slowly(*arguments):
    """Before each step. A signal takes a second until all processes know of it."""
    time.sleep(0.1)
    remember(*arguments)


hooks.NonFiniteGuard.remember = remember_slowly
ending.BEAT_SECONDS = 0.5
ending.LOST_SECONDS = 8.0

if __name__ == "__main__":
    app.run(train.main, flags_parser=config_flag.parse_flags)

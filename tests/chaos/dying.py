"""train.py, killed with -9 at a named point.

python -m tests.chaos.dying POINT STEP --config=… --workdir=…

POINT is where it dies: `writing` the checkpoint of STEP, when all of it lies there but
for the rename that completes it; `restoring` it, with the parameters read and the rest
not; or `before` STEP begins, with the last checkpoint complete.
"""

import os
import signal
import sys
from typing import Any

from absl import app

import train
from eomt_jax.cli import config_flag
from eomt_jax.training import hooks


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_file(event_name: str, path_part: str) -> None:
    """Dies when Python opens or renames a file, as its audit events tell."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        # Renaming: from, to. Opening: path, mode, flags.
        if event == event_name and path_part in str(arguments[event == "os.rename"]):
            die()

    sys.addaudithook(audit)


def die_before(step: int) -> None:
    remember = hooks.NonFiniteGuard.remember

    def remember_and_die(self, number, batch):
        remember(self, number, batch)
        if number == step:
            self._checkpoints.wait()
            die()

    hooks.NonFiniteGuard.remember = remember_and_die


def main() -> None:
    point, step = sys.argv.pop(1), int(sys.argv.pop(1))
    if point == "writing":
        die_in_file("os.rename", f"/checkpoints/{step}")
    elif point == "restoring":
        die_in_file("open", f"/checkpoints/{step}/training/")
    else:
        die_before(step)
    app.run(train.main, flags_parser=config_flag.parse_flags)


if __name__ == "__main__":
    main()

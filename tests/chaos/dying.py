"""Runs train.py and kills it with -9 at a named point.

python -m tests.chaos.dying POINT STEP --config=… --workdir=…

At POINT `writing`, it dies when the checkpoint of STEP is written but not yet renamed,
which completes it. At `restoring`, it dies when the checkpoint's parameters are read
and the rest isn't. At `before`, it dies before STEP begins, with the last checkpoint
complete.
"""

import os
import signal
import sys
from typing import Any

import orbax.checkpoint as ocp
from absl import app

import train
from eomt_jax.cli import config_flag
from eomt_jax.training import guards


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_renaming(path_part: str) -> None:
    """Dies when Python renames a file to such a path, by an audit hook."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and path_part in str(arguments[1]):
            die()

    sys.addaudithook(audit)


def die_restoring(path_end: str) -> None:
    restore = ocp.StandardCheckpointHandler.restore

    def restore_or_die(self, directory, *arguments, **options):
        if str(directory).endswith(path_end):
            print("The parameters are restored.", flush=True)
            die()
        return restore(self, directory, *arguments, **options)

    ocp.StandardCheckpointHandler.restore = restore_or_die


def die_before(step: int) -> None:
    remember = guards.NonFiniteGuard.remember

    def remember_and_die(self, number, batch):
        remember(self, number, batch)
        if number == step:
            self._checkpoints.wait()
            die()

    guards.NonFiniteGuard.remember = remember_and_die


def main() -> None:
    point, step = sys.argv.pop(1), int(sys.argv.pop(1))
    if point == "writing":
        die_renaming(f"/checkpoints/{step}")
    elif point == "restoring":
        die_restoring(f"/checkpoints/{step}/training")
    else:
        die_before(step)
    app.run(train.main, flags_parser=config_flag.parse_flags)


if __name__ == "__main__":
    main()

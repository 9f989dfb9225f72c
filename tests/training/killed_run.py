"""A small run as a process of its own, which may be told to kill itself.

python killed_run.py DATA_DIR WORKDIR CACHE [STEP]: with STEP it dies by SIGKILL as
soon as the checkpoint of that step is being written.
"""

import os
import signal
import sys

import jax

from eomt_jax.training import loop
from eomt_jax.training.checkpoint import Checkpoints
from tests.training.conftest import make_config, register_micro_variant


def main(data_dir, workdir, cache, step=None):
    register_micro_variant()
    config = make_config(data_dir)
    config.compilation_cache = cache
    if step is not None:
        save = Checkpoints.save

        def save_and_die(self, number, *args):
            save(self, number, *args)
            if number == int(step):
                os.kill(os.getpid(), signal.SIGKILL)

        Checkpoints.save = save_and_die
    loop.train(config, workdir, devices=jax.devices()[:1])


if __name__ == "__main__":
    main(*sys.argv[1:])

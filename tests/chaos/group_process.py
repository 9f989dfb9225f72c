"""Runs one of several processes that end in different ways, for test_ending.

python -m tests.chaos.group_process WHAT FOLDER
"""

import os
import pathlib
import signal
import sys
import time

import jax

from eomt_jax.parallel import ending, processes

ending.BEAT_SECONDS = 0.2
ending.LOST_SECONDS = 4.0


def collective():
    """Runs a collective, which never ends if one process doesn't take part."""
    processes.multihost_utils.process_allgather(jax.numpy.ones(3))


def use_own_folder(folder):
    processes._FOLDER_SECONDS = 1.0
    processes.check_shared_folder(folder / f"of_{jax.process_index()}")
    collective()


def kill_one(folder):
    collective()
    if jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    collective()


def kill_first(folder):
    collective()
    if jax.process_index() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def end_well(folder):
    """Writes when the process's turn began and ended; the first process ends last."""
    processes.check_shared_folder(folder / "shared")
    with processes.in_turn("test"):
        begin = time.time()
        time.sleep(0.2)
    (folder / f"turn_{jax.process_index()}").write_text(f"{begin} {begin + 0.2}")
    if jax.process_index() == 0:
        time.sleep(1)
    sys.exit(os.EX_TEMPFAIL)


def join(folder):
    pass


def main(what, folder):
    if what == "join":
        processes.JOIN_SECONDS = 2
    processes.initialize()
    with ending.ending_together():
        globals()[what](pathlib.Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])

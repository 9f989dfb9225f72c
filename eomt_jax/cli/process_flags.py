"""Flags that join several processes to one run, and the context of such a run."""

import contextlib
import sys
from collections.abc import Iterator

from absl import flags, logging

# --help shows the flags of a program, wherever they are defined.
flags.disclaim_key_flags()


def define_process_flags() -> None:
    """Defines --coordinator, --num_processes and --process_id.

    TPU pods, SLURM and Open MPI need none of them.
    """
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, in a run of several processes."
    )
    flags.DEFINE_integer("num_processes", 0, "Processes of the run.")
    flags.DEFINE_integer("process_id", -1, "Number of this process, from 0.")


@contextlib.contextmanager
def joined(*, saves_on_sigterm: bool) -> Iterator[None]:
    """Joins the other processes of a run for a `with` block, and ends with them.

    An error that the user can fix becomes one line and exit code 1. In a run of several
    processes it ends all of them, see `parallel.ending`.

    Args:
      saves_on_sigterm: see `parallel.processes.initialize`.
    """
    # These are imported after parsing the flags, so that misspelt flags are answered
    # sooner.
    from eomt_jax.parallel import ending, gpu_memory, processes
    from eomt_jax.training import guards

    # An ImportError may come from an extra that only some inputs need.
    told = (
        *(ValueError, OSError, ImportError),
        *(guards.NonFiniteError, guards.OutOfMemoryError),
    )
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    gpu_memory.claim_most_memory()
    with _in_a_line(told):
        processes.initialize(
            flags.FLAGS.coordinator,
            num_processes=flags.FLAGS.num_processes,
            process_id=flags.FLAGS.process_id,
            saves_on_sigterm=saves_on_sigterm,
        )
        with ending.ending_together(), _in_a_line(told):
            yield


@contextlib.contextmanager
def _in_a_line(told: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except told as error:
        logging.debug("where it was raised:", exc_info=True)  # with --verbosity=1
        sys.exit(f"error: {error}")

"""Runs of more than one process."""

import math
import os

import jax
import numpy as np
from jax.experimental import multihost_utils


def initialize(
    coordinator: str = "", *, num_processes: int = 0, process_id: int = -1
) -> None:
    """Joins this process to the others; does nothing for a run of one process.

    Call it before anything else of JAX. What is not given is read from
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
      coordinator: host:port of process 0; "auto" asks the environment (TPU pods,
        SLURM, Open MPI); empty means one process.
      num_processes: processes of the run.
      process_id: 0 to num_processes − 1.
    """
    environment = os.environ
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "")
    if not coordinator or jax.distributed.is_initialized():
        return
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    num_processes = num_processes or int(environment.get("JAX_NUM_PROCESSES", 0))
    if process_id < 0:
        process_id = int(environment.get("JAX_PROCESS_ID", -1))
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"coordinator = {coordinator!r} wants num_processes ≥ 1 and process_id "
            f"from 0 to num_processes − 1, got {num_processes} and {process_id}"
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)


def is_main() -> bool:
    """True in the one process that writes logs and pictures."""
    return jax.process_index() == 0


def gather_rows(array: np.ndarray) -> np.ndarray:
    """All processes' rows, in the order of the processes; every process must call it.

    Args:
      array: [rows, …] in host memory; the number of rows may differ by process.
    """
    if jax.process_count() == 1:
        return array
    num_rows, row_shape = len(array), array.shape[1:]
    counts = multihost_utils.process_allgather(np.int32(num_rows)).tolist()
    # As bytes: on its way through the devices nothing loses digits, and as many rows
    # from each process as the fullest has.
    row_bytes = array.dtype.itemsize * math.prod(row_shape)
    padded = np.zeros((max(counts), row_bytes), np.uint8)
    padded[:num_rows] = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, row_bytes)
    gathered = multihost_utils.process_allgather(padded)
    rows = np.concatenate([part[:count] for part, count in zip(gathered, counts)])
    return np.frombuffer(rows.tobytes(), array.dtype).reshape(-1, *row_shape)

"""Joins the processes of a run, and lets them wait for one another."""

import contextlib
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax._src import distributed
from jax.experimental import multihost_utils

from eomt_jax.parallel.launchers import Launch, find_launch

# All processes must have joined by then. JAX's own limit is longer, since it aborts the
# process in C++ without saying what to do.
JOIN_SECONDS = 50
# JAX takes a process for dead after this time without a sign of life, and aborts all
# others in the same way.
HEARTBEAT_SECONDS = 50
# At a barrier, processes wait for a busy one however long it takes.
_BARRIER_MILLISECONDS = 24 * 3600 * 1000
# A network folder may show a new file this late.
_FOLDER_SECONDS = 20.0


def initialize(
    coordinator: str = "",
    *,
    num_processes: int = 0,
    process_id: int = -1,
    saves_on_sigterm: bool = True,
) -> None:
    """Joins this process to the others; does nothing for a run of one process.

    Call it before anything else of JAX. Values that are not given are found by
    `launchers.find_launch`.

    Args:
      coordinator: host:port of process 0.
      num_processes: number of processes in the run; 0 if not given.
      process_id: 0 to num_processes − 1; −1 if not given.
      saves_on_sigterm: for training, which asks at each step whether any process got a
        SIGTERM. With False a SIGTERM ends the process.

    Raises:
      ValueError: `find_launch` raises it, or process 0 cannot listen at its address.
    """
    if jax.distributed.is_initialized():
        return
    launch = find_launch(
        os.environ,
        coordinator=coordinator,
        num_processes=num_processes,
        process_id=process_id,
    )
    if launch is None:
        return
    jax.config.update("jax_enable_preemption_service", saves_on_sigterm)
    patience = threading.Timer(JOIN_SECONDS, _give_up, [launch])
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            launch.coordinator or None,
            launch.num_processes,
            launch.process_id,
            launch.local_device_ids,
            cluster_detection_method="deactivate" if launch.coordinator else None,
            initialization_timeout=2 * JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{_place(launch)} cannot start the run at {launch.described}: {reason}. "
            "Is the port taken, by a run that still ends? Take another one, or wait"
        ) from error
    finally:
        patience.cancel()


def _give_up(launch: Launch) -> None:
    """Ends this process, since not all others have joined in time."""
    trouble = "it answers, but not all processes came; look at the logs of the others"
    if launch.process_id == 0:
        trouble = (
            f"not all {launch.num_processes} processes came; look at the logs of the "
            "others"
        )
    elif launch.coordinator:
        host, _, port = launch.coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
        except socket.gaierror:
            trouble = f"nobody knows the name {host}"
        except OSError as error:
            trouble = (
                f"no answer ({error}). Check that process 0 runs there, that the "
                "address is reached from here, and that no firewall closes the port"
            )
    print(
        f"error: {_place(launch)} waited {JOIN_SECONDS} s at {launch.described}: "
        f"{trouble}.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _place(launch: Launch) -> str:
    if launch.process_id is None:
        return f"the process on {socket.gethostname()}"
    return f"process {launch.process_id} of {launch.num_processes}"


def is_main() -> bool:
    """Returns whether this is the one process that writes logs and pictures."""
    return jax.process_index() == 0


def client() -> Any:
    """Returns the client of the coordination service in a run of several processes.

    It stores small texts under keys that all processes see, and has barriers that need
    no device.
    """
    # JAX 0.10 to 0.12 have no public name for it; orbax and others also take it from
    # here.
    return distributed.global_state.client


def wait_for_all(name: str) -> None:
    """Waits until every process has called it; a single process doesn't wait.

    Args:
      name: name of the place in the program, used once in a run.
    """
    if jax.process_count() > 1:
        client().wait_at_barrier(f"eomt/{name}", _BARRIER_MILLISECONDS)


@contextlib.contextmanager
def in_turn(name: str) -> Iterator[None]:
    """Runs its body in process 0, then in one process of each machine, then in all.

    So a file that one process writes to a disk is there for all others that see the
    disk, and processes on different machines need not wait for one another.

    Args:
      name: name of the place in the program, used once in a run.
    """
    if jax.process_count() == 1:
        yield
        return
    index, machine = jax.process_index(), socket.gethostname()
    client().key_value_set(f"eomt/{name}/{index}", machine)
    wait_for_all(f"{name}/begin")
    machines = client().key_value_dir_get(f"eomt/{name}/")
    same = [int(key.rpartition("/")[2]) for key, value in machines if value == machine]
    turn = 0 if index == 0 else 1 if index == min(same) else 2
    for earlier in range(turn):
        wait_for_all(f"{name}/{earlier}")
    yield
    for later in range(turn, 3):
        wait_for_all(f"{name}/{later}")


def check_shared_folder(folder: epath.PathLike) -> None:
    """Raises ValueError unless all processes see the same `folder`.

    Args:
      folder: a folder, which the first process makes if it is missing.
    """
    if jax.process_count() == 1:
        return
    folder = epath.Path(folder)
    mark = folder / ".seen_by_all"
    if is_main():
        signature = f"{socket.gethostname()} {os.getpid()} {time.time()}"
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(signature)
        client().key_value_set("eomt/folder/signature", signature)
    wait_for_all("folder/marked")
    signature = client().key_value_try_get("eomt/folder/signature")
    deadline = time.monotonic() + _FOLDER_SECONDS
    while not (mark.exists() and mark.read_text() == signature):
        if time.monotonic() > deadline:
            raise ValueError(
                f"{folder} on {socket.gethostname()} is not the folder of that name "
                f"that process 0 has on {signature.split()[0]}. Give one that all "
                "processes share: a network folder or a bucket (gs://…)"
            )
        time.sleep(0.5)
    wait_for_all("folder/seen")
    if is_main():
        mark.unlink()


def gather_rows(array: np.ndarray) -> np.ndarray:
    """Returns the rows of all processes, in their order; all processes must call it.

    Args:
      array: [rows, …] in host memory; the number of rows may differ by process.
    """
    if jax.process_count() == 1:
        return array
    num_rows, row_shape = len(array), array.shape[1:]
    counts = multihost_utils.process_allgather(np.int32(num_rows)).tolist()
    # The rows pass through the devices as bytes, so that no digits are lost. Each
    # process sends as many rows as the one with the most.
    row_bytes = array.dtype.itemsize * math.prod(row_shape)
    padded = np.zeros((max(counts), row_bytes), np.uint8)
    padded[:num_rows] = np.frombuffer(array.tobytes(), np.uint8).reshape(-1, row_bytes)
    gathered = multihost_utils.process_allgather(padded)
    rows = np.concatenate([part[:count] for part, count in zip(gathered, counts)])
    return np.frombuffer(rows.tobytes(), array.dtype).reshape(-1, *row_shape)

"""Runs several real processes over 127.0.0.1, for tests of runs with processes."""

import dataclasses
import importlib.metadata
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]


def installed_environment(folder: pathlib.Path) -> dict[str, str]:
    """Returns variables with which Python finds the library, as installed, alone.

    Args:
      folder: an empty folder; the clone's configs/ and data/ are not in the path.
    """
    (folder / "eomt_jax").symlink_to(ROOT / "eomt_jax")
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}


def xla_flags(devices: int) -> str:
    """Returns flags of XLA for `devices` fake CPU devices and quick compiling."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        # Later versions don't have this flag, and XLA ends the process for an unknown
        # flag.
        flags += " --xla_cpu_use_fusion_emitters=false"
    return flags


@dataclasses.dataclass(frozen=True)
class Ended:
    """The end of a process.

    Attributes:
      returncode: its exit status; negative if a signal ended it.
      output: its output on both streams.
    """

    returncode: int
    output: str


class Processes:
    """The processes of one run, which are started at once; a context that ends them.

    Attributes:
      running: the `subprocess.Popen`s, in the order of their process ids.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[Any] = (),
        *,
        count: int,
        devices: int,
        folder: pathlib.Path,
        variables: Mapping[str, str] | Sequence[Mapping[str, str]] = (),
    ):
        """Starts `python -m module arguments…` as processes 0 to count − 1.

        Args:
          module: a module that calls `parallel.processes.initialize()`.
          arguments: arguments of all processes.
          count: number of processes; a single one joins no others.
          devices: number of fake CPU devices of each process.
          folder: folder of the logs, which are read as `Ended.output`.
          variables: variables of the environment, for all, or a mapping for each.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        if isinstance(variables, Mapping):
            variables = [variables] * count
        self._logs = [folder / f"process_{address[10:]}_{i}.log" for i in range(count)]
        self.running = []
        for i, log in enumerate(self._logs):
            environment = os.environ | {
                "XLA_FLAGS": xla_flags(devices),
                # All devices together must have a thread each to wait in.
                "NPROC": "32",
                "JAX_PLATFORMS": "cpu",
            }
            if count > 1:
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": str(count),
                    "JAX_PROCESS_ID": str(i),
                }
            if variables:
                environment |= variables[i]
            with log.open("w") as file:
                self.running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", module, *map(str, arguments)],
                        cwd=ROOT,
                        env=environment,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def output(self, index: int) -> str:
        """Returns the output of process `index` so far."""
        return self._logs[index].read_text(errors="replace")

    def wait(self, *, timeout: float) -> list[Ended]:
        """Waits until all have ended; TimeoutError, with output, after `timeout` s."""
        deadline = time.monotonic() + timeout
        for process in self.running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                printed = "\n".join(map(self.output, range(len(self.running))))
                raise TimeoutError(f"still running: {printed}") from None
        return [Ended(p.returncode, self.output(i)) for i, p in enumerate(self.running)]

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def run_processes(module: str, arguments: Sequence[Any] = (), **options: Any):
    """Runs processes to their end; takes Processes' options, and `timeout` (200 s).

    Returns:
      The `Ended` of each; AssertionError with the output if one ended badly.
    """
    timeout = options.pop("timeout", 200.0)
    with Processes(module, arguments, **options) as processes:
        ended = processes.wait(timeout=timeout)
    for one in ended:
        assert one.returncode == 0, one.output
    return ended

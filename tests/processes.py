"""Several real processes of one run over 127.0.0.1, for tests of what they agree on."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
      returncode: negative where a signal ended it.
      output: what it printed, both streams.
    """

    returncode: int
    output: str


class Processes:
    """The processes of one run, started at once; a context manager that ends them.

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
          module: one that calls `parallel.processes.initialize()`.
          arguments: the same for all.
          count: one process joins nobody.
          devices: fake CPU devices of each process.
          folder: for the logs, which are read back as `Ended.output`.
          variables: of the environment, for all or one mapping for each.
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
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
                # As many threads as all devices together can wait with.
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
        """What process `index` has printed so far."""
        return self._logs[index].read_text(errors="replace")

    def wait(self, *, timeout: float) -> list[Ended]:
        """Until all have ended; TimeoutError, with their output, after `timeout` s."""
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
    """Runs them to their end; see Processes, and `timeout`, 200 s by default.

    Returns:
      Each one's `Ended`; AssertionError, with the output, unless all ended well.
    """
    timeout = options.pop("timeout", 200.0)
    with Processes(module, arguments, **options) as processes:
        ended = processes.wait(timeout=timeout)
    for one in ended:
        assert one.returncode == 0, one.output
    return ended

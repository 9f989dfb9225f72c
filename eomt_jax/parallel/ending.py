"""Ends all processes of a run when one ends, with the same error message in all.

JAX's own heartbeats can't do this: they abort the others with a C++ stack trace, know
no reason, and leave the exit code of a crash.
"""

import contextlib
import itertools
import os
import re
import sys
import threading
import time
import traceback
from typing import Any

import jax

from eomt_jax.parallel import processes

# A process gives a sign of life every BEAT_SECONDS, and counts as lost after
# LOST_SECONDS without one. That is long enough for a busy process, and shorter than
# JAX's own limit.
BEAT_SECONDS = 5.0
LOST_SECONDS = 25.0
# The first process waits this long before it ends, so that the others read the reason.
_HEARD_SECONDS = 5.0

_REASON = "eomt/reason"
_BEATS = "eomt/beats"
_HEARD = "eomt/heard"

# Errors that match this are caused by the end of another process.
_ECHO = re.compile(
    r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|Socket closed"
    r"|Connection (closed|reset|refused)|heartbeat|barrier|Barrier"
)


def ending_together() -> contextlib.AbstractContextManager[Any]:
    """Returns a context for a run, in which an error in one process ends all processes.

    The other processes may wait for the failed one in a collective that never ends. So
    all print its error, with the number of the process, and exit with code 1. They do
    the same when a process was killed or gives no sign of life. A process that leaves
    without an error, or by SystemExit with code 0 or EX_TEMPFAIL ("run me again"),
    waits for the others. In a run of one process the context does nothing.
    """
    return contextlib.nullcontext() if jax.process_count() == 1 else _Group()


class _Group:
    """Watches the other processes of a run from this one.

    Two threads run beside the main one. One waits for a reason to end. The other gives
    this process's signs of life; in the first process, which holds the coordination
    service, it reads those of the others instead.
    """

    def __init__(self):
        self._client = processes.client()
        self._index, self._count = jax.process_index(), jax.process_count()
        self._left = threading.Event()
        self._ending = threading.Lock()
        self._threads = [
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._beat, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self):
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, SystemExit):
            if error.code not in (None, 0, os.EX_TEMPFAIL):
                text = str(error.code).removeprefix("error: ")
                self._fail(text, error.__context__, with_traceback=False)
        elif error is not None:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self._fail(text.removesuffix(":"), error)
        try:
            processes.wait_for_all("end")
        except jax.errors.JaxRuntimeError as failed:
            self._fail(str(failed), failed, with_traceback=False)
        self._left.set()
        if self._index == 0:
            self._client.key_value_set(_REASON, "")
        for thread in self._threads:
            # Python must not exit while one of the threads waits in C++.
            thread.join()

    def _fail(
        self, reason: str, error: BaseException | None, *, with_traceback: bool = True
    ) -> None:
        """Reports an error to all, unless another process was first; ends this one."""
        if _is_echo(error):
            # The process that caused the error may still report it, or count as lost
            # soon.
            time.sleep(LOST_SECONDS + 4 * BEAT_SECONDS)
        reason = f"process {self._index} of {self._count}: {reason}"
        with self._ending:  # before the other thread hears of it and ends the process
            told = self._tell(reason)
            if with_traceback and told == reason:
                traceback.print_exception(error)
        self._end(told)

    def _listen(self) -> None:
        while True:
            try:
                reason = self._client.blocking_key_value_get(_REASON, 3600 * 1000)
                break
            except jax.errors.JaxRuntimeError as error:
                if self._left.is_set():
                    return
                if "DEADLINE_EXCEEDED" not in str(error):
                    reason = _lost(0, self._count)
                    break
        if reason:
            self._end(reason)

    def _beat(self) -> None:
        # A process is watched from its first sign of life on. JAX watches it until
        # then.
        seen: dict[int, tuple[str, float]] = {}
        for number in itertools.count():
            # If the service is gone, the other thread notices.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                if self._index > 0:
                    self._client.key_value_set(
                        f"{_BEATS}/{self._index}", str(number), allow_overwrite=True
                    )
                else:
                    self._miss(seen)
            if self._left.wait(BEAT_SECONDS):
                return

    def _miss(self, seen: dict[int, tuple[str, float]]) -> None:
        """Ends the run when a process gives no sign of life any more.

        Args:
          seen: each process's last sign of life, and when it was first read; this is
            updated.
        """
        now = time.monotonic()
        for index, beat in self._numbered(_BEATS).items():
            if index not in seen or seen[index][0] != beat:
                seen[index] = beat, now
            elif now - seen[index][1] > LOST_SECONDS:
                self._end(self._tell(_lost(index, self._count)))

    def _tell(self, reason: str) -> str:
        """Shares the reason; returns that of the first process that shared one."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(_REASON, reason)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            return self._client.key_value_try_get(_REASON) or reason
        return reason

    def _end(self, reason: str) -> None:
        """Prints the reason and ends the process, from whichever thread is first."""
        self._ending.acquire()  # and never released
        sys.stdout.flush()
        print(f"error: {reason}", file=sys.stderr, flush=True)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            if self._index > 0:
                self._client.key_value_set(f"{_HEARD}/{self._index}", "")
            deadline = time.monotonic() + _HEARD_SECONDS
            # The service from which the others read the reason ends with this process.
            while self._index == 0 and time.monotonic() < deadline:
                if len(self._numbered(_HEARD)) == self._count - 1:
                    break
                time.sleep(0.1)
        # sys.exit would not end a main thread that waits in a collective, and an
        # orderly end of JAX's runtime would wait for the other processes.
        os._exit(1)

    def _numbered(self, folder: str) -> dict[int, str]:
        found = self._client.key_value_dir_get(f"{folder}/")
        return {int(key.rpartition("/")[2]): value for key, value in found}


def _is_echo(error: BaseException | None) -> bool:
    while error is not None:
        # An OSError, such as an unreachable disk, is an error of this process itself.
        if not isinstance(error, OSError) and _ECHO.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _lost(index: int, count: int) -> str:
    return (
        f"process {index} of {count} was lost: killed, out of memory, or its machine is "
        "gone or out of reach; its own log may tell. Run the same command again"
    )

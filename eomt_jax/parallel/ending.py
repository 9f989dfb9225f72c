"""Several processes end together, and all of them say why."""

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

# A process shows itself so often, and is taken for dead after such a silence: long
# enough for a busy one, short enough that JAX's own heartbeats, which end a process
# with no more than a stack of C++, come later.
BEAT_SECONDS = 5.0
LOST_SECONDS = 25.0
# What the last one to leave waits, so that the others have read why.
_HEARD_SECONDS = 5.0

_REASON = "eomt/reason"
_BEATS = "eomt/beats"
_HEARD = "eomt/heard"

# Such errors are how the end of another process shows itself in this one.
_ECHO = re.compile(
    r"Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED|Socket closed"
    r"|Connection (closed|reset|refused)|heartbeat|barrier|Barrier"
)


def ending_together() -> contextlib.AbstractContextManager[Any]:
    """Around a whole run: what ends one process ends all, and all say the same reason.

    An error in one process is told to the others, which may wait for it in a collective
    that never ends; all print it, with the number of the process, and exit with code 1.
    So they do when a process was killed, or no longer shows itself. Leaving without an
    error, or by SystemExit with code 0 or EX_TEMPFAIL ("run me again"), waits for the
    others. In a run of one process it does nothing.
    """
    return contextlib.nullcontext() if jax.process_count() == 1 else _Group()


class _Group:
    """The processes of a run as this one sees them.

    Two threads watch while the main one computes. One waits for a reason to end, the
    other shows that this process lives, and in the first process, beside which the
    coordination service lives, looks whether the others do.
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
            # Python may not end while one of them waits in C++.
            thread.join()

    def _fail(
        self, reason: str, error: BaseException | None, *, with_traceback: bool = True
    ) -> None:
        """Tells all, unless another process was quicker, and ends this one."""
        if _is_echo(error):
            # The process that caused it may still tell why, or be missed soon.
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
        # From the first sign on: until a process comes here, JAX watches it.
        seen: dict[int, tuple[str, float]] = {}
        for number in itertools.count():
            # Should the service be gone, the other thread hears that.
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
        """Ends the run when a process has gone silent.

        Args:
          seen: each process's last sign of life, and when it was new; updated.
        """
        now = time.monotonic()
        for index, beat in self._numbered(_BEATS).items():
            if index not in seen or seen[index][0] != beat:
                seen[index] = beat, now
            elif now - seen[index][1] > LOST_SECONDS:
                self._end(self._tell(_lost(index, self._count)))

    def _tell(self, reason: str) -> str:
        """The reason that all have: this one, or another process's that came first."""
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
            # With this process the service goes that the others hear the reason from.
            while self._index == 0 and time.monotonic() < deadline:
                if len(self._numbered(_HEARD)) == self._count - 1:
                    break
                time.sleep(0.1)
        # Not sys.exit: the main thread may wait in a collective, and leaving JAX's
        # runtime in good order would wait for the others.
        os._exit(1)

    def _numbered(self, folder: str) -> dict[int, str]:
        found = self._client.key_value_dir_get(f"{folder}/")
        return {int(key.rpartition("/")[2]): value for key, value in found}


def _is_echo(error: BaseException | None) -> bool:
    while error is not None:
        # A disk or a server out of reach is this process's own trouble.
        if not isinstance(error, OSError) and _ECHO.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _lost(index: int, count: int) -> str:
    return (
        f"process {index} of {count} was lost: killed, out of memory, or its machine is "
        "gone or out of reach; its own log may tell. Run the same command again"
    )

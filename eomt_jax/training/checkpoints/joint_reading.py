"""Reading a checkpoint in all processes, which fails in all of them or in none."""

import errno
import json
import re
from collections.abc import Callable
from typing import TypeVar, cast

import jax
import numpy as np
from etils import epath

from eomt_jax.parallel.processes import gather_rows

T = TypeVar("T")

# Errors of a network, disk or process that can't read now what may be sound.
_UNREACHABLE_ERRNOS = (
    *(errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH),
)
# tensorstore's words for them; all of its errors are ValueErrors.
_UNREACHABLE_WORDS = re.compile(
    r"UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|RESOURCE_EXHAUSTED|ABORTED"
)


class DamagedError(ValueError):
    """A step's folder is not as it was written; the message says what is wrong."""


class UnreachableError(OSError):
    """A step's folder can't be read now, which says nothing of what lies there."""


def read_in_all(folder: epath.Path, read: Callable[[], T]) -> T:
    """Returns what `read` returns; if it fails in one process, all raise the same error.

    Each must know of the others before it waits for them somewhere else.

    Raises:
      UnreachableError: the storage or the network is to blame.
      DamagedError: anything else.
    """
    result, problem = None, None
    try:
        result = read()
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # The device or the host failed, not the files.
    except Exception as error:  # noqa: BLE001 (orbax has no error of its own)
        problem = _is_unreachable(error), reason_of(error)
    if jax.process_count() > 1:
        problem = _first_problem(problem)
    if problem is None:
        return cast(T, result)
    unreachable, reason = problem
    if unreachable:
        raise UnreachableError(
            f"{folder} could not be read: {reason}. Nothing is changed: start the same "
            "command again when the storage can be reached, and read by this user."
        )
    raise DamagedError(f"{folder} is damaged: {reason}.")


def _first_problem(mine: tuple[bool, str] | None) -> tuple[bool, str] | None:
    """Returns one of all processes' problems: unreachable storage before damage."""
    text = ""
    if mine is not None:
        text = json.dumps([mine[0], f"process {jax.process_index()}: {mine[1]}"])
    rows = gather_rows(np.frombuffer(f"{text}\n".encode(), np.uint8))
    lines = rows.tobytes().decode().split("\n")
    problems = [json.loads(line) for line in lines if line]
    problems.sort(key=lambda problem: not problem[0])
    return (problems[0][0], problems[0][1]) if problems else None


def _is_unreachable(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _UNREACHABLE_ERRNOS:
            return True
        if isinstance(error, ConnectionError | TimeoutError | PermissionError):
            return True
        if _UNREACHABLE_WORDS.search(str(error)):
            return True
        error = error.__cause__
    return False


def reason_of(error: Exception) -> str:
    """Returns the first line of an error, with its type where that adds something."""
    lines = str(error).strip().split("\n")
    text = lines[0][:300].rstrip(".")
    return (
        text if isinstance(error, DamagedError) else f"{type(error).__name__}: {text}"
    )

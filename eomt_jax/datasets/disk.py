"""Checks that a dataset can be written, before hours go into building it."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator

from etils import epath

from eomt_jax.file_names import check_utf8

# ArrayRecord's writer has an error of its own.
_WRITE_FAILED = re.compile(r"\w+\(\) failed: (.*?); (?:writing|opening) (.*?)(?:;|$)")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_place(target: epath.Path) -> None:
    """Raises ValueError where no folder can be made at `target`, a local path.

    A file is in the way, its folder belongs to someone else, or it isn't UTF-8.
    """
    check_utf8(target)
    if "://" in os.fspath(target):
        return
    for path in (target, *target.parents):
        if not os.path.lexists(path):
            continue
        if not path.is_dir():
            raise ValueError(
                f"{path} is no folder, and {target} is to be made below it: give another "
                "--data_dir"
            )
        if path != target and not os.access(path, os.W_OK | os.X_OK):
            raise ValueError(
                f"there is no permission to write into {path}: give another --data_dir"
            )
        if path != target:
            return


def check_space(folder: os.PathLike[str] | str, num_bytes: int) -> None:
    """Raises ValueError where the disk of a local folder has less than `num_bytes` free."""
    path = os.path.abspath(folder)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    free = shutil.disk_usage(path).free
    if free < num_bytes:
        raise ValueError(
            f"the photographs alone take {_size(num_bytes)}, and there are {_size(free)} "
            f"free in {folder}: make room, or give another --data_dir"
        )


@contextlib.contextmanager
def explain_os_errors(data_dir: epath.Path) -> Iterator[None]:
    """Turns a disk's errors into a ValueError that says what to do."""
    try:
        yield
    except OSError as error:
        where, why = error.filename or data_dir, error.strerror or str(error)
        cause: Exception = error
    except RuntimeError as error:
        failed = _WRITE_FAILED.search(str(error))
        if failed is None:
            raise
        why, where, cause = failed[1], failed[2], error
    else:
        return
    is_full = why in map(os.strerror, _FULL)
    advice = (
        f"make room, or give another --data_dir than {data_dir}"
        if is_full
        else "see that it can be read, and written below --data_dir"
    )
    raise ValueError(f"{where}: {why}; nothing was kept: {advice}") from cause


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"

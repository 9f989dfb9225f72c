"""Refuses paths that are no regular files, such as pipes, devices, sockets and /proc.

To read them may never end. All code that opens a file that a user named, or that is in
a folder that a user named, checks it here first.
"""

import os
import stat

from etils import epath

MAX_JSON = 1 << 28
"""Most bytes of a JSON that describes a network, a file of weights or a class table."""

_KERNEL_FOLDERS = ("/proc", "/sys")

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def check_regular(path: epath.PathLike, *, max_bytes: int | None = None) -> None:
    """Raises ValueError unless a path is a regular file, before a byte of it is read.

    A path where there is nothing passes, since opening it raises an error of its own.
    So do files in buckets, which are always regular.

    Args:
      path: path of a file, or of a link to one.
      max_bytes: most bytes that the file may have; any number by default.
    """
    local = os.fspath(path)
    if "://" in local:
        return
    try:
        found = os.stat(local)
    except (OSError, ValueError):
        return
    for is_kind, name in _KINDS:
        if is_kind(found.st_mode):
            raise ValueError(f"{path} is {name}, not a file")
    target = os.path.realpath(local)
    if target.startswith(tuple(f"{folder}/" for folder in _KERNEL_FOLDERS)):
        raise ValueError(f"{path} is no file on a disk: the system makes it up")
    if max_bytes is not None and found.st_size > max_bytes:
        raise ValueError(
            f"{path} has {found.st_size / 1e9:.1f} GB; more than {max_bytes / 1e9:.1f} "
            "GB of such a file are not read"
        )


def check_folder(folder: epath.PathLike) -> None:
    """Raises ValueError if a file in a local folder, or below it, is no regular one."""
    if "://" in os.fspath(folder):
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            check_regular(os.path.join(parent, name))

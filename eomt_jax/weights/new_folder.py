"""Writes folders whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from etils import epath


def check_new(path: epath.PathLike) -> epath.Path:
    """Returns the path, or raises an error if writing to it would change something.

    Raises:
      ValueError: there is a file, or a folder that isn't empty, or the path lies below
        a file.
    """
    path = epath.Path(path).expanduser()
    if "://" not in str(path):
        for parent in filter(os.path.isfile, path.parents):
            raise ValueError(f"{path} can't be made: {parent} is a file; name another.")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path} exists already; name another, or remove it.")
    return path


@contextlib.contextmanager
def new_folder(path: epath.PathLike) -> Iterator[pathlib.Path]:
    """Yields a local folder to fill, which is moved to `path` if no error is raised.

    Args:
      path: a path where there is nothing or an empty folder. It may be in a bucket, to
        which files are copied one by one, in the order of their names.

    Raises:
      ValueError: there is something already.
    """
    path = check_new(path)
    if "://" in str(path):
        with tempfile.TemporaryDirectory() as local:
            yield pathlib.Path(local)
            for file in sorted(
                f for f in pathlib.Path(local).rglob("*") if f.is_file()
            ):
                target = path / file.relative_to(local).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                epath.Path(file).copy(target)
        return
    final = pathlib.Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # The folder is filled beside its final place, so that the last step is a renaming.
    unfinished = final.with_name(f"{final.name}.unfinished.{os.getpid()}")
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.replace(final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

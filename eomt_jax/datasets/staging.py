"""Builds a dataset in a folder beside its own, which it gets in one step."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator

from absl import logging
from etils import epath

from eomt_jax.pipeline import records

_FOLDER = ".building"


def clean_unfinished(data_dir: epath.Path) -> None:
    """Removes what builds that no longer run have left in `data_dir`."""
    staging = data_dir / _FOLDER
    if not staging.exists():
        return
    for folder in staging.iterdir():
        host, _, process = folder.name.rpartition("-")
        if host != socket.gethostname() or not process.isdigit():
            continue  # another machine's, which may be at work
        if not _is_running(int(process)):
            logging.warning("removing the remains of an interrupted build: %s", folder)
            folder.rmtree(missing_ok=True)
    if not any(staging.iterdir()):
        staging.rmdir()


@contextlib.contextmanager
def build_folder(data_dir: epath.Path) -> Iterator[epath.Path]:
    """Yields a folder of this process alone, which is gone afterwards in any case.

    ArrayRecord's writer wants local files, so a bucket's dataset is built in the
    machine's temporary folder.
    """
    if is_remote(data_dir):
        with tempfile.TemporaryDirectory(prefix="eomt_data_") as folder:
            yield epath.Path(folder)
        return
    folder = data_dir / _FOLDER / f"{socket.gethostname()}-{os.getpid()}"
    folder.rmtree(missing_ok=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        folder.rmtree(missing_ok=True)
        with contextlib.suppress(OSError, ValueError):  # others build there
            folder.parent.rmdir()


def retire(target: epath.Path, staging: epath.Path) -> None:
    """Takes a finished build away so that no part of it ever looks like a whole."""
    if is_remote(target):
        # Readers take this file for the mark of a whole one, so it goes first.
        (target / "metadata.json").unlink()
        target.rmtree()
    else:
        target.rename(staging / ".replaced")  # in one step; goes with the staging


def publish(finished: epath.Path, target: epath.Path) -> None:
    """Moves a whole dataset to where readers look for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_remote(target):
        try:
            finished.rename(target)
        except OSError:
            # Another process drew the same dataset meanwhile.
            if target not in records.prepared_versions(
                target.parent.parent, target.parent.name
            ):
                raise
        return
    target.mkdir(parents=True, exist_ok=True)
    # Readers take a folder with metadata for whole, so that file goes last.
    for file in sorted(finished.iterdir(), key=lambda f: f.name == "metadata.json"):
        with file.open("rb") as source, (target / file.name).open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 24)


def is_remote(path: epath.Path) -> bool:
    """Returns whether a path is in a bucket."""
    return "://" in os.fspath(path)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

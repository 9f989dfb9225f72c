"""Turns a published dataset's archives into a prepared one.

python data/prepare.py coco_panoptic --archives=~/archives --data_dir=~/eomt_data

The archives are read as downloaded and never unpacked. They are checked before
anything is written, and the dataset appears under its name only when it is whole.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import app, flags, logging
from etils import epath

# As a script this file lies in the path, not the folder above, where data/ is.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from data import coco_instance, coco_panoptic, shapes
from data.archives import some
from data.builder import RecordBuilder
from eomt_jax.pipeline import records
from eomt_jax.types import DatasetInfo

_STAGING = ".building"


def prepare(
    name: str,
    data_dir: epath.PathLike,
    *,
    archives: epath.PathLike | None = None,
    overwrite: bool = False,
) -> DatasetInfo:
    """Builds dataset `name` in `data_dir`, unless it is there.

    Args:
      name: one of DATASETS.
      data_dir: root of prepared datasets; a local folder or a bucket.
      archives: folder of the published archives; of no use to drawn datasets.
      overwrite: replaces a finished build.

    Raises:
      ValueError: unknown name, or archives missing, damaged or inconsistent.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    data_dir = epath.Path(data_dir).expanduser()
    clean_unfinished(data_dir)
    builder_class = DATASETS[name]
    version = str(builder_class.VERSION)
    target = data_dir / name / version
    is_finished = target in records.prepared_versions(data_dir, name)
    if is_finished and not overwrite:
        logging.info("%s is prepared already: %s", name, target)
        return records.read_info(data_dir, name)

    options: dict[str, Any] = {} if archives is None else {"archives": archives}
    with _staging_folder(data_dir) as staging:
        builder = builder_class(data_dir=os.fspath(staging), **options)
        builder.download_and_prepare(file_format="array_record")
        for what, names in builder.notes.items():
            logging.warning("%s: %d %s (%s)", name, len(names), what, some(names))
        if is_finished:
            target.rmtree()
        _publish(staging / name / version, target)
    return records.read_info(data_dir, name)


def ensure(name: str, data_dir: epath.PathLike) -> None:
    """Makes sure that dataset `name` is prepared; draws it when it needs no archive.

    Raises:
      ValueError: the dataset is built from archives and isn't there; says how.
    """
    needs_archives = name not in DATASETS or DATASETS[name].needs_archives
    if needs_archives or records.prepared_versions(data_dir, name):
        records.read_info(data_dir, name)
    else:
        prepare(name, data_dir)


def clean_unfinished(data_dir: epath.Path) -> None:
    """Removes what builds that no longer run have left in `data_dir`."""
    staging = data_dir / _STAGING
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
def _staging_folder(data_dir: epath.Path) -> Iterator[epath.Path]:
    """A folder of this process alone that is gone afterwards, come what may.

    ArrayRecord's writer wants local files, so a bucket's dataset is built in the
    machine's temporary folder.
    """
    if _is_remote(data_dir):
        with tempfile.TemporaryDirectory(prefix="eomt_data_") as folder:
            yield epath.Path(folder)
        return
    folder = data_dir / _STAGING / f"{socket.gethostname()}-{os.getpid()}"
    folder.rmtree(missing_ok=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        folder.rmtree(missing_ok=True)
        with contextlib.suppress(OSError, ValueError):  # others build there
            folder.parent.rmdir()


def _publish(finished: epath.Path, target: epath.Path) -> None:
    """Moves a whole dataset to where readers look for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not _is_remote(target):
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


def _is_remote(path: epath.Path) -> bool:
    return "://" in os.fspath(path)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


DATASETS: dict[str, type[RecordBuilder]] = {
    "coco_instance": coco_instance.CocoInstance,
    "coco_panoptic": coco_panoptic.CocoPanoptic,
    "shapes": shapes.Shapes,
}


def define_flags() -> None:
    """Defines this script's flags; not on import, for train.py has its own."""
    flags.DEFINE_string("archives", None, "Folder of the archives, as published.")
    flags.DEFINE_string("data_dir", "~/eomt_data", "Root of prepared datasets.")
    flags.DEFINE_bool("overwrite", False, "Replace a finished build.")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise app.UsageError(f"name one dataset of {', '.join(DATASETS)}")
    logging.set_verbosity(logging.WARNING)
    try:
        info = prepare(
            argv[1],
            flags.FLAGS.data_dir,
            archives=flags.FLAGS.archives,
            overwrite=flags.FLAGS.overwrite,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    counts = ", ".join(f"{n} {split}" for split, n in info.num_examples.items())
    print(f"{info.name} is ready in {flags.FLAGS.data_dir}: {counts}")


if __name__ == "__main__":
    define_flags()
    app.run(main)

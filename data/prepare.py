"""Turns a published dataset's archives, or a user's own files, into a prepared one.

python data/prepare.py coco_panoptic --archives=~/archives --data_dir=~/eomt_data
python data/prepare.py mask_folder --name=mine --images=photos --masks=masks \
    --classes=classes.txt --data_dir=~/eomt_data

Archives are read as downloaded and never unpacked. They are checked before anything is
written, and the dataset appears under its name only when it is whole.
"""

import os
import pathlib
import re
import sys
from typing import Any

from absl import app, flags, logging
from etils import epath

from eomt_jax.cli.script_packages import load_package
from eomt_jax.cli.standard_output import accept_any_name

if not __package__:  # run as a script
    load_package("data", above=pathlib.Path(__file__).resolve().parent.parent)

from data import (
    ade20k_panoptic,
    ade20k_semantic,
    cityscapes_semantic,
    coco_format,
    coco_instance,
    coco_panoptic,
    instance_folder,
    mask_folder,
    shapes,
    staging,
)
from data.builder import RecordBuilder
from data.disk import check_place, explain_os_errors
from data.options import check_options, check_same, describe_options
from data.read_back import check_read_back
from data.sources import shorten, some
from eomt_jax.pipeline import records
from eomt_jax.types import DatasetInfo


def prepare(
    name: str,
    data_dir: epath.PathLike,
    *,
    builder: str = "",
    overwrite: bool = False,
    **options: Any,
) -> DatasetInfo:
    """Builds dataset `name` in `data_dir`, unless it is there.

    Args:
      name: one of DATASETS; with a `builder`, any other name.
      data_dir: root of prepared datasets; a local folder or a bucket.
      builder: one of FORMATS, for a dataset of one's own.
      overwrite: replaces a finished build.
      **options: of the dataset or format: archives="DIR" for a published one, else see
        the builder's class.

    Raises:
      ValueError: unknown name or option, a missing one, files that are missing,
        damaged or inconsistent, or a finished build with other options.
    """
    builder_class = _builder_class(name, builder)
    check_options(builder or name, builder_class, options)
    data_dir = epath.Path(data_dir).expanduser()
    version = str(builder_class.VERSION)
    target = data_dir / name / version
    check_place(target)
    staging.clean_unfinished(data_dir)
    is_finished = target in records.prepared_versions(data_dir, name)
    described = describe_options(builder_class, options)
    if is_finished and not overwrite:
        check_same(name, target, described, builder_class)
        logging.warning(
            "%s is what was prepared before; overwrite replaces it: %s", name, target
        )
        return records.read_info(data_dir, name)

    is_in_the_way = not (is_finished or staging.is_remote(target)) and _holds_any(
        target
    )
    if is_in_the_way and not overwrite:
        raise ValueError(
            f"{target} is in the way and no finished dataset: move it away, or replace "
            "it with --overwrite"
        )
    with explain_os_errors(data_dir), staging.build_folder(data_dir) as folder:
        dataset = builder_class(name=name, data_dir=os.fspath(folder), **options)
        dataset.options = described
        dataset.download_and_prepare(file_format="array_record")
        for what, names in dataset.notes.items():
            logging.warning("%s: %d %s (%s)", name, len(names), what, some(names))
        check_read_back(folder / name / version, dataset.checksums)
        if is_finished or is_in_the_way:
            staging.retire(target, folder)
        staging.publish(folder / name / version, target)
    return records.read_info(data_dir, name)


def ensure(name: str, data_dir: epath.PathLike) -> None:
    """Makes sure that dataset `name` is prepared; draws it when it needs no archive.

    Of several processes one draws, and so does one on each machine that doesn't see
    what was drawn; the others wait.

    Raises:
      ValueError: the dataset is built from archives and isn't there; says how.
    """
    # Only a run needs JAX, not this script.
    from eomt_jax.parallel import processes

    needs_archives = name not in DATASETS or DATASETS[name].needs_archives
    with processes.in_turn("prepare"):
        if needs_archives or records.prepared_versions(data_dir, name):
            records.read_info(data_dir, name)
        else:
            prepare(name, data_dir)


def _holds_any(folder: epath.Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _builder_class(name: str, builder: str) -> type[RecordBuilder]:
    if not builder:
        if name in FORMATS:
            raise ValueError(f"{name} is a format: name your dataset with --name=NAME")
        if name not in DATASETS:
            known = ", ".join([*DATASETS, *FORMATS])
            raise ValueError(f"unknown dataset {name!r}; known: {known}")
        return DATASETS[name]
    if builder not in FORMATS:
        raise ValueError(f"unknown format {builder!r}; known: {', '.join(FORMATS)}")
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(
            f"--name={name} is no name: take letters, digits and _, a letter first"
        )
    if name in DATASETS or name in FORMATS:
        raise ValueError(f"--name={name} is taken; choose another name")
    return FORMATS[builder]


DATASETS: dict[str, type[RecordBuilder]] = {
    "ade20k_panoptic": ade20k_panoptic.Ade20kPanoptic,
    "ade20k_semantic": ade20k_semantic.Ade20kSemantic,
    "cityscapes_semantic": cityscapes_semantic.CityscapesSemantic,
    "coco_instance": coco_instance.CocoInstance,
    "coco_panoptic": coco_panoptic.CocoPanoptic,
    "shapes": shapes.Shapes,
    "shapes_crowded": shapes.ShapesCrowded,
}
FORMATS: dict[str, type[RecordBuilder]] = {
    "coco_format": coco_format.CocoFormat,
    "instance_folder": instance_folder.InstanceFolder,
    "mask_folder": mask_folder.MaskFolder,
}
_SPLIT = "One PATH, or train=PATH,validation=PATH,test=PATH."
_TEXTS = {
    "archives": "Folder of a published dataset's archives.",
    "images": f"Folder or archive of photographs. {_SPLIT}",
    "annotations": f"coco_format: a JSON. {_SPLIT}",
    "segments": f"coco_format: folder or archive of panoptic PNGs. {_SPLIT}",
    "masks": f"Folder or archive of PNGs with classes or objects. {_SPLIT}",
    "mask_name": "How masks are called, {}_mask.png; {} is the photograph's name.",
    "classes": "Text of one name a line, or JSON or CSV with colours (data/README.md).",
    "ignore_label": "Value of pixels that belong to no class or object.",
    "object_classes": "instance_folder: CSV of file, id, class.",
    "remap": "mask_folder: as in 3=1,#ff0000=2,7=ignore,others=0.",
}


_VALUES = (
    *("validation", "test", "split_seed"),
    *("crowds_as_objects", "negatives", "skip_damaged"),
)


def define_flags() -> None:
    """Defines this script's flags; not on import, for train.py has its own."""
    flags.DEFINE_string("data_dir", "~/eomt_data", "Root of prepared datasets.")
    flags.DEFINE_bool("overwrite", False, "Replace a finished build.")
    flags.DEFINE_string("name", "", "Of the dataset to be made of your own files.")
    flags.DEFINE_float(
        "validation", None, "Share of training to draw; 0.1 where one PATH is for all."
    )
    flags.DEFINE_float("test", None, "Share of training to draw for a test split.")
    flags.DEFINE_bool(
        "crowds_as_objects", False, "coco_format: iscrowd = 1 is an object like others."
    )
    flags.DEFINE_bool("negatives", False, "Train on photographs without an object too.")
    flags.DEFINE_bool(
        "skip_damaged", False, "Leave out photographs that can't be decoded."
    )
    flags.DEFINE_integer("split_seed", 0, "Seed of what is drawn.")
    for name, text in _TEXTS.items():
        flags.DEFINE_string(name, None, text)


def main(argv: list[str]) -> None:
    known = ", ".join([*DATASETS, *FORMATS])
    if len(argv) != 2:
        raise app.UsageError(f"name one of {known}")
    accept_any_name()
    logging.set_verbosity(logging.WARNING)
    values = flags.FLAGS
    options = {
        name: values[name].value for name in (*_TEXTS, *_VALUES) if values[name].present
    }
    name, builder = argv[1], ""
    if name in FORMATS and values.name:
        name, builder = values.name, name
    try:
        if values.name and not builder:
            raise ValueError(f"--name is for one of {', '.join(FORMATS)}, not {name}")
        info = prepare(
            name,
            values.data_dir,
            builder=builder,
            overwrite=values.overwrite,
            **options,
        )
    except ValueError as error:
        sys.exit(f"error: {shorten(str(error), 30_000)}")
    counts = ", ".join(f"{n} {split}" for split, n in info.num_examples.items())
    print(f"{info.name} is ready in {values.data_dir}: {counts}")


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""Builds prepared datasets from published archives or from a user's own files.

Archives are read as downloaded and never unpacked. They are checked before anything is
written, and the dataset appears under its name only when it is whole.
"""

import os
import re
from typing import Any

from absl import logging
from etils import epath

from eomt_jax.datasets import (
    ade20k_panoptic,
    ade20k_semantic,
    cityscapes_semantic,
    coco_format,
    coco_instance,
    coco_panoptic,
    cvat,
    instance_folder,
    labelme,
    mask_folder,
    shapes,
    staging,
    yolo,
)
from eomt_jax.datasets.builder import RecordBuilder
from eomt_jax.datasets.disk import check_place, explain_os_errors
from eomt_jax.datasets.options import check_options, check_same, describe_options
from eomt_jax.datasets.read_back import check_read_back
from eomt_jax.datasets.sources import some
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
    "cvat": cvat.Cvat,
    "instance_folder": instance_folder.InstanceFolder,
    "labelme": labelme.Labelme,
    "mask_folder": mask_folder.MaskFolder,
    "yolo": yolo.Yolo,
}

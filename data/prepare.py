"""Turns a published dataset's archives, or a user's own files, into a prepared one.

python data/prepare.py coco_panoptic --archives=~/archives --data_dir=~/eomt_data
python data/prepare.py mask_folder --name=mine --images=photos --masks=masks \
    --classes=classes.txt --data_dir=~/eomt_data

Archives are read as downloaded and never unpacked. They are checked before anything is
written, and the dataset appears under its name only when it is whole.
"""

import sys

from absl import app, flags, logging

from eomt_jax.cli.standard_output import accept_any_name
from eomt_jax.datasets.prepare import DATASETS, FORMATS, prepare
from eomt_jax.datasets.sources import shorten

_SPLIT = "One PATH, or train=PATH,validation=PATH,test=PATH."
_TEXTS = {
    "archives": "Folder of a published dataset's archives.",
    "images": f"Folder or archive of photographs. {_SPLIT}",
    "annotations": (
        "coco_format: a JSON; yolo, labelme, cvat: folder, archive or file of the "
        f"labels. {_SPLIT}"
    ),
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
    """Defines this script's flags."""
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

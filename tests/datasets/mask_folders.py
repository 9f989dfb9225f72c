"""Makes a user's folders of photographs and masks, and prepares them."""

import numpy as np

from eomt_jax.datasets import prepare
from eomt_jax.pipeline import records
from tests.datasets import map_archives
from tests.datasets.map_archives import encode, photograph, write_files

CLASSES = "background\nroad\ncar\n"


def draw(number=4, *, folder=""):
    """Returns (photographs, masks) of classes 0, 1, 2 and ignored pixels, by name."""
    rng = np.random.default_rng(number)
    photographs, masks = {}, {}
    for i in range(number):
        values = map_archives.draw_blocks(rng, range(3))
        values[0, :4] = 0, 1, 2, 255
        photographs[f"{folder}{i}.jpg"] = photograph(rng)
        masks[f"{folder}{i}.png"] = encode(values)
    return photographs, masks


def build(tmp_path, photographs, label_maps, *, class_list=CLASSES, **options):
    paths = {
        "images": str(write_files(tmp_path / "photos", photographs)),
        "masks": str(write_files(tmp_path / "masks", label_maps)),
        "classes": str(tmp_path / "classes.txt"),
    }
    (tmp_path / "classes.txt").write_text(class_list, encoding="utf-8")
    return prepare.prepare(
        "mine", tmp_path / "out", builder="mask_folder", **{**paths, **options}
    )


def read_all(tmp_path):
    """Returns the records by image id."""
    found = {}
    for split in ("train", "validation"):
        for record in records.open_split(tmp_path / "out", "mine", split):
            found[record.image_id] = record
    return found


def label_map(record):
    """Returns the labels as int [H, W], -1 where there is none."""
    return np.array([-1, *record.labels])[record.segment_map]

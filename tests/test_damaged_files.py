"""Files of users that are damaged in many ways load, or an error names them.

Weights are tested in weights/test_fuzz.py, and the fields of COCO's JSON in
datasets/test_coco_schema.py.
"""

import io
import json
import resource
import time
import zlib

import numpy as np
import pytest
from etils import epath
from PIL import Image, features

from eomt_jax.datasets import class_lists, coco_instance, coco_panoptic, mask_pngs
from eomt_jax.datasets.photographs import check_photograph
from eomt_jax.datasets.sources import open_source
from eomt_jax.pipeline.info_sources import open_info
from eomt_jax.predict.photographs import read_photograph
from tests.datasets.coco_archives import (
    draw_pictures,
    instances_json,
    panoptic_json,
    zip_bytes,
)
from tests.datasets.map_archives import tar_bytes
from tests.weights.damage import damage_bytes

MIB = 1 << 20
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def picture(kind, mode="RGB", **options):
    stream = io.BytesIO()
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        image = image.convert("L")  # which alone has a way there in every Pillow
    image.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def read_photograph_file(path):
    pixels = read_photograph(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def read_source(path):
    with open_source(path) as source:
        for name in source.names():
            source.read(name)


def read_mask(path):
    mask_pngs.read_rgb(path.read_bytes(), file=path.name)


def read_training_photograph(path):
    check_photograph(path.read_bytes(), size=(20, 30), file=path.name)


def read_table(module):
    def read(path):
        module.read_table(path.read_bytes(), name=path.name, source="see docs")

    return read


CLASSES = json.dumps([{"id": 1, "name": "cat", "color": [1, 2, 3], "isthing": 1}])
FILES = {"a.png": picture("PNG"), "b/c.txt": b"text" * 90, "d.jpg": picture("JPEG")}
KINDS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "MPO")
KINDS += ("AVIF",) if features.check("avif") else ()  # Pillow 11.3 has it
# Name of the file, its bytes, and the function that reads it.
READERS = {
    **{
        f"photograph {kind}": (
            f"photo.{kind.lower()}",
            picture(kind),
            read_photograph_file,
        )
        for kind in KINDS
    },
    **{
        f"photograph of training {kind}": (
            f"photo.{kind.lower()}",
            picture(kind),
            read_training_photograph,
        )
        for kind in KINDS
    },
    **{
        f"photograph {kind} of 16 bits": (
            f"photo.{kind.lower()}",
            picture(kind, "I;16", **options),
            reader,
        )
        for kind, options, reader in (
            ("TIFF", {}, read_photograph_file),
            ("TIFF", {"compression": "tiff_lzw"}, read_training_photograph),
            ("PNG", {}, read_training_photograph),
        )
    },
    "photograph with a palette": (
        "photo.png",
        picture("PNG", "P"),
        read_photograph_file,
    ),
    "mask": ("mask.png", picture("PNG"), read_mask),
    "zip": ("files.zip", zip_bytes(FILES), read_source),
    "tar": ("files.tar", tar_bytes(FILES), read_source),
    "classes": ("classes.json", CLASSES.encode(), class_lists.read_class_list),
    "class table": ("table.json", CLASSES.encode(), open_info),
    "instances": (
        "instances.json",
        json.dumps(instances_json(draw_pictures(1))).encode(),
        read_table(coco_instance),
    ),
    "panoptic": (
        "panoptic.json",
        json.dumps(panoptic_json(draw_pictures(1))).encode(),
        read_table(coco_panoptic),
    ),
}


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it reads all the same
@pytest.mark.parametrize("reader", READERS)
def test_damaged_file_is_named_in_time_and_bounded_memory(tmp_path, reader):
    name, good, read = READERS[reader]
    path = epath.Path(tmp_path / name)
    path.write_bytes(good)
    read(path)

    rng = np.random.default_rng(7)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    refused = 0
    for _ in range(80):
        damaged, what = damage_bytes(rng, good)
        path.write_bytes(damaged)
        try:
            read(path)
        except ValueError as error:
            refused += 1
            assert name in str(error), what
            assert len(str(error)) < 2000, what
    assert refused > 5
    assert time.process_time() - start < 20
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500 * 1024  # in KiB


def huge_png():
    png = bytearray(picture("PNG"))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    return bytes(png)


def huge_bmp():
    bmp = bytearray(picture("BMP"))
    bmp[18:26] = (60_000).to_bytes(4, "little") * 2
    return bytes(bmp)


@pytest.mark.parametrize("make", [huge_png, huge_bmp])
@pytest.mark.parametrize(
    "read", [read_photograph_file, read_training_photograph, read_mask]
)
@pytest.mark.filterwarnings("ignore")
def test_header_that_claims_gigabytes_is_refused(tmp_path, make, read):
    path = epath.Path(tmp_path / "photo.png")
    path.write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"photo\.png"):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024

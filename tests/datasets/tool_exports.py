"""Writes photographs with labels of annotation tools, and prepares them."""

import io
import pathlib

import numpy as np
from PIL import Image

from eomt_jax.datasets import prepare
from eomt_jax.pipeline import records
from tests.datasets.coco_archives import zip_bytes

SIZE = (10, 20)  # height, width


def photograph(*, orientation=1, size=SIZE):
    """Returns a JPEG of noise; orientation 6 is that of a phone held upright."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def write(folder, files, *, zipped=False):
    """Writes files, texts or bytes by name, into a new folder or archive."""
    content = {n: c.encode() if isinstance(c, str) else c for n, c in files.items()}
    if zipped:
        path = folder.with_suffix(".zip")
        path.write_bytes(zip_bytes(content))
        return path
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def build(tmp_path, builder, annotations, **options):
    """Prepares a dataset; returns its info, and its records by split and image id."""
    options = {
        k: str(v) if isinstance(v, pathlib.Path) else v for k, v in options.items()
    }
    data_dir = tmp_path / "prepared"
    info = prepare.prepare(
        "mine", data_dir, builder=builder, annotations=str(annotations), **options
    )
    found = {
        split: {r.image_id: r for r in records.open_split(data_dir, "mine", split)}
        for split in info.num_examples
    }
    return info, found


def masks_of(record):
    """Returns bool [T, H, W]."""
    return np.moveaxis(record.masks(), -1, 0)


def boxes(record):
    """Returns class index, (top, left, bottom, right) and pixels of each object."""
    found = []
    for label, mask in zip(record.labels.tolist(), masks_of(record), strict=True):
        rows, columns = np.nonzero(mask)
        corners = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        found.append((label, tuple(map(int, corners)), int(mask.sum())))
    return found

"""Class lists, tables and masks with random damage are read or raise a ValueError."""

import contextlib
import random

import numpy as np
import pytest

from eomt_jax.datasets import prepare
from eomt_jax.datasets.class_lists import read_class_list, read_remap
from eomt_jax.datasets.instance_folder import _read_table
from eomt_jax.datasets.mask_pngs import read_pixels
from eomt_jax.types import ClassInfo
from tests.datasets.map_archives import encode

CLASSES = [ClassInfo(0, "a", True, (1, 1, 1)), ClassInfo(1, "b", True, (2, 2, 2))]
VALUES = np.arange(63, dtype=np.uint8).reshape(9, 7)
LISTS = [
    b"name,r,g,b\na,1,2,3\nb,4,5,6\n",
    b"# label:color_rgb:parts:actions\na:1,2,3::\nb:4,5,6::",
    b'[{"id": 0, "name": "a", "color": [1, 2, 3]}, {"id": 1, "name": "b"}]',
    b"a\nb\nc\n",
    b"file,id,class\n1.png,1,a\n2.png,2,b\n",
]
MASKS = [
    encode(VALUES),
    encode(VALUES.astype(np.uint16)),
    encode(np.stack([VALUES] * 3, axis=-1)),
    encode(np.stack([VALUES] * 4, axis=-1)),
]


def damage(rng, content):
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        start = rng.randrange(len(damaged) + 1)
        junk = bytes([rng.choice(b',;:"\n\0\xff{}[]#019-a')]) * rng.randint(1, 9)
        replaced = rng.choice([0, 1, 9])
        damaged[start : start + replaced] = rng.choice([junk, b"", damaged[:start]])
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(2))
def test_random_damage_ends_in_a_value_error_or_is_read(tmp_path, seed):
    rng = random.Random(seed)

    def read(reader, *arguments, **options):
        with contextlib.suppress(ValueError):
            reader(*arguments, **options)

    for _ in range(100):
        path = tmp_path / rng.choice(["list.txt", "list.csv", "list.json"])
        path.write_bytes(damage(rng, rng.choice(LISTS)))
        read(read_class_list, path)
        read(_read_table, str(path), CLASSES)
        read(read_pixels, damage(rng, rng.choice(MASKS)), file="x.png")
        remap = damage(rng, b"3=1,#ff0000=ignore,others=0").decode("latin-1")
        read(read_remap, remap, CLASSES)


@pytest.mark.parametrize("option", ["images", "masks", "classes", "object_classes"])
def test_device_in_place_of_a_file_is_refused(tmp_path, option):
    options = {"images": tmp_path, "masks": tmp_path, "classes": tmp_path / "c.txt"}
    (tmp_path / "c.txt").write_text("a\n")
    options = {name: str(path) for name, path in options.items()}
    options[option] = "/dev/null"
    with pytest.raises(ValueError, match="/dev/null"):
        prepare.prepare("x", tmp_path / "out", builder="instance_folder", **options)

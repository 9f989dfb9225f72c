"""Makes miniature datasets of label maps: ADE20K, Cityscapes, a user's folders.

Photographs are noise, since no test looks at them; label maps are random blocks.
"""

import io
import pathlib
import tarfile
import zipfile
from collections.abc import Mapping

import numpy as np
from PIL import Image

from tests.datasets.coco_archives import zip_bytes

SCENES = "ADEChallengeData2016.zip"
INSTANCES_TAR, INSTANCES_ZIP = "annotations_instance.tar", "annotations_instance.zip"
PHOTOGRAPHS, GT_FINE = "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"
Files = dict[str, bytes]


def draw_blocks(
    rng: np.random.Generator, values: range, *, size: tuple[int, int] = (24, 32)
) -> np.ndarray:
    """Returns uint8 [H, W] of blocks of eight pixels with random values."""
    blocks = rng.integers(values.start, values.stop, (size[0] // 8, size[1] // 8))
    return blocks.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)


def photograph(
    rng: np.random.Generator, size: tuple[int, int] = (24, 32), format: str = "JPEG"
) -> bytes:
    """Returns a picture file of noise."""
    return encode(rng.integers(0, 256, (*size, 3)).astype(np.uint8), format)


def encode(pixels: np.ndarray, format: str = "PNG", **options) -> bytes:
    """Returns a picture file of given pixels."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=format, **options)
    return stream.getvalue()


def decode(encoded: bytes) -> np.ndarray:
    """Returns the pixels of a picture file."""
    return np.asarray(Image.open(io.BytesIO(encoded)))


def draw_ade20k(number: Mapping[str, int]) -> tuple[Files, Files]:
    """Returns the files of the scenes' archive and of the instances' archive."""
    rng = np.random.default_rng(0)
    scenes, instances = {}, {}
    for folder, count in number.items():
        for i in range(count):
            name = f"{folder}/ADE_{folder[:3]}_{i:08d}"
            root = "ADEChallengeData2016"
            scenes[f"{root}/images/{name}.jpg"] = photograph(rng)
            semantic = draw_blocks(rng, range(151))
            semantic[0, :3] = 0, 1, 8  # nothing, a wall, a bed that is no object
            scenes[f"{root}/annotations/{name}.png"] = encode(semantic)
            objects = np.zeros((24, 32, 3), np.uint8)
            for number_in_image in range(1, 6):
                top, left = rng.integers(1, 20, 2)
                objects[top : top + 6, left : left + 6, 0] = rng.integers(1, 101)
                objects[top : top + 6, left : left + 6, 1] = number_in_image
            instances[f"annotations_instance/{name}.png"] = encode(objects)
    return scenes, instances


def write_ade20k(
    folder: pathlib.Path, scenes: Files, instances: Files, *, tar: bool = True
) -> None:
    """Writes the two archives; the second one as published or zipped again."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCENES).write_bytes(zip_bytes(scenes))
    if tar:
        (folder / INSTANCES_TAR).write_bytes(tar_bytes(instances))
    else:
        (folder / INSTANCES_ZIP).write_bytes(zip_bytes(instances))


def draw_cityscapes() -> tuple[Files, Files]:
    """Returns (photographs, annotations) of two training cities and one validation."""
    rng = np.random.default_rng(1)
    photographs, annotations = {}, {}
    for name in (
        "train/aachen/aachen_000000_000019",
        "train/aachen/aachen_000001_000019",
        "train/bochum/bochum_000000_000313",
        "val/lindau/lindau_000000_000019",
        "test/berlin/berlin_000000_000019",
    ):
        photographs[f"leftImg8bit/{name}_leftImg8bit.png"] = photograph(
            rng, format="PNG"
        )
        prefix = f"gtFine/{name}_gtFine"
        annotations[f"{prefix}_labelIds.png"] = encode(draw_blocks(rng, range(34)))
        annotations[f"{prefix}_color.png"] = photograph(rng, format="PNG")
        annotations[f"{prefix}_polygons.json"] = b"{}"
    return photographs, annotations


def write_cityscapes(
    folder: pathlib.Path, photographs: Files, annotations: Files
) -> None:
    """Writes the two archives."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PHOTOGRAPHS).write_bytes(zip_bytes(photographs))
    (folder / GT_FINE).write_bytes(zip_bytes(annotations))


def write_files(folder: pathlib.Path, files: Mapping[str, bytes]) -> pathlib.Path:
    """Writes files below `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(path: pathlib.Path, files: Mapping[str, bytes]) -> pathlib.Path:
    """Writes files as an archive with compression, like those of users."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar_bytes(files: Mapping[str, bytes]) -> bytes:
    """Returns a tar archive of `files`, each below "./", with folders as members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
            member = tarfile.TarInfo(f"./{folder}")
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()

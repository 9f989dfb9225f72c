"""Makes miniature COCO archives with the official names and layout.

    write_archives(folder)                                  # three and two pictures
    write_archives(folder, train=draw_pictures(8, size=(64, 96)))

Pictures are bright rectangles, which are things or a crowd, on one class of stuff.
"""

import dataclasses
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from eomt_jax import dataset_info

TRAIN, VAL = "train2017.zip", "val2017.zip"
ANNOTATIONS = "panoptic_annotations_trainval2017.zip"
INSTANCES = "annotations_trainval2017.zip"
SPLITS = {"train": "train2017", "validation": "val2017"}


@dataclasses.dataclass
class Picture:
    """One annotated photograph.

    Attributes:
      image_id: COCO's number, which gives the file names.
      image: uint8 [H, W, 3].
      id_map: int [H, W], COCO's segment ids (up to 24 bits); 0 is void.
      segments: rows of `segments_info`.
    """

    image_id: int
    image: np.ndarray
    id_map: np.ndarray
    segments: list[dict[str, Any]]

    @property
    def stem(self) -> str:
        return f"{self.image_id:012d}"


def draw_pictures(
    number: int, *, size: tuple[int, int] = (48, 64), seed: int = 0
) -> list[Picture]:
    """Returns `number` pictures of `size` (height, width), some of them turned."""
    rng = np.random.default_rng(seed)
    return [
        _draw_picture(rng, 1000 * (seed + 1) + i, size if i % 3 else size[::-1])
        for i in range(number)
    ]


def write_archives(
    folder: pathlib.Path,
    *,
    train: Sequence[Picture] | None = None,
    validation: Sequence[Picture] | None = None,
    edit_json: Callable[[dict[str, Any]], None] | None = None,
    inner_compression: int = zipfile.ZIP_STORED,
) -> dict[str, Sequence[Picture]]:
    """Writes the photographs' and the panoptic archives into `folder`.

    Args:
      folder: a folder, which is made if it is missing.
      train: pictures of train2017; None takes three.
      validation: pictures of val2017; None takes two.
      edit_json: function that changes each split's JSON before it is written.
      inner_compression: compression of the nested archives in the outer one.

    Returns:
      The pictures by prepared split.
    """
    pictures = {
        "train": draw_pictures(3, seed=0) if train is None else train,
        "validation": draw_pictures(2, seed=1) if validation is None else validation,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / ANNOTATIONS, "w") as annotations:
        for split, name in SPLITS.items():
            files = {f"{name}/{p.stem}.jpg": jpeg(p.image) for p in pictures[split]}
            (folder / f"{name}.zip").write_bytes(zip_bytes(files))
            table = panoptic_json(pictures[split])
            if edit_json:
                edit_json(table)
            annotations.writestr(f"annotations/panoptic_{name}.json", json.dumps(table))
            maps = {
                f"panoptic_{name}/{p.stem}.png": segments_png(p.id_map)
                for p in pictures[split]
            }
            annotations.writestr(
                f"annotations/panoptic_{name}.zip", zip_bytes(maps), inner_compression
            )
    return pictures


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """Returns a zip archive of `files`, stored like COCO's."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def edit_zip(path: pathlib.Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Rewrites an archive after `change` has changed its files by name."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    path.write_bytes(zip_bytes(files))


def _draw_picture(
    rng: np.random.Generator, image_id: int, size: tuple[int, int]
) -> Picture:
    height, width = size
    image = rng.integers(60, 90, (height, width, 3)).astype(np.uint8)
    id_map = np.zeros(size, np.int64)
    classes = dataset_info.load_classes("coco_panoptic")
    segments: list[dict[str, Any]] = []

    def add(category: int, region: tuple[slice, slice], is_crowd: bool) -> None:
        segment_id = int(rng.integers(1, 1 << 24))
        id_map[region] = segment_id
        image[region] = rng.integers(100, 256, 3)
        segments.append(
            {
                "id": segment_id,
                "category_id": classes[category].id,
                "iscrowd": int(is_crowd),
            }
        )

    add(int(rng.integers(80, 133)), np.s_[height // 3 :, :], False)
    num_things = int(rng.integers(1, 4))
    for number in range(num_things):
        left = width * number // num_things
        top = int(rng.integers(0, height // 3))
        region = np.s_[top : top + height // 2, left : left + width // 4]
        add(int(rng.integers(0, 80)), region, is_crowd=number == 2)
    for segment in segments:
        rows, columns = np.nonzero(id_map == segment["id"])
        segment["area"] = len(rows)
        left, top = int(columns.min()), int(rows.min())
        right, bottom = int(columns.max()), int(rows.max())
        segment["bbox"] = [left, top, right - left + 1, bottom - top + 1]
    return Picture(image_id, image, id_map, segments)


def panoptic_json(pictures: Sequence[Picture]) -> dict[str, Any]:
    annotations = [
        {
            "image_id": p.image_id,
            "file_name": f"{p.stem}.png",
            "segments_info": p.segments,
        }
        for p in pictures
    ]
    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.is_thing)}
        for c in dataset_info.load_classes("coco_panoptic")
    ]
    return {
        "images": _image_rows(pictures),
        "annotations": annotations,
        "categories": categories,
    }


def instances_json(pictures: Sequence[Picture]) -> dict[str, Any]:
    """Returns the things of the pictures; masks of all forms overlap the next one.

    The first thing of a picture is two polygons, the second one run lengths, and the
    third one, a crowd, run lengths too.
    """
    classes = {c.id: c for c in dataset_info.load_classes("coco_instance")}
    annotations = []
    for picture in pictures:
        things = [s for s in picture.segments if s["category_id"] in classes]
        for number, thing in enumerate(things):
            left, top, width, height = thing["bbox"]
            right = min(left + width + 9, picture.id_map.shape[1])
            mask = np.zeros(picture.id_map.shape, np.uint8, order="F")
            mask[top : top + height, left:right] = 1
            bottom, middle = top + height, (left + right) // 2
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture.image_id,
                    "category_id": thing["category_id"],
                    "iscrowd": thing["iscrowd"],
                    "bbox": [left, top, right - left, height],
                    "area": float(mask.sum())
                    - 0.25,  # published areas are the polygons'
                    "segmentation": _run_lengths(mask)
                    if number
                    else [
                        [left, top, middle, top, middle, bottom, left, bottom],
                        [middle, top, right, top, right, bottom, middle, bottom],
                    ],
                }
            )
    categories = [{"id": c.id, "name": c.name} for c in classes.values()]
    return {
        "images": _image_rows(pictures),
        "annotations": annotations,
        "categories": categories,
    }


def write_instances(
    folder: pathlib.Path,
    pictures: Mapping[str, Sequence[Picture]],
    *,
    edit_json: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Writes annotations_trainval2017.zip beside the archives of `write_archives`."""
    files = {}
    for split, name in SPLITS.items():
        table = instances_json(pictures[split])
        if edit_json:
            edit_json(table)
        files[f"annotations/instances_{name}.json"] = json.dumps(table).encode()
    (folder / INSTANCES).write_bytes(zip_bytes(files))


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Returns COCO's uncompressed form: column by column, beginning with zeros."""
    flat = mask.ravel(order="F")
    ends = np.append(np.flatnonzero(np.diff(flat)) + 1, flat.size)
    runs = np.diff(ends, prepend=0).tolist()
    counts = [0, *runs] if flat[0] else runs
    return {"size": list(mask.shape), "counts": counts}


def _image_rows(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    return [
        {
            "id": p.image_id,
            "file_name": f"{p.stem}.jpg",
            "height": p.image.shape[0],
            "width": p.image.shape[1],
        }
        for p in reversed(pictures)  # the official files have two orders as well
    ]


def jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=90)
    return stream.getvalue()


def segments_png(id_map: np.ndarray) -> bytes:
    rgb = np.stack([id_map >> shift & 255 for shift in (0, 8, 16)], axis=-1)
    stream = io.BytesIO()
    Image.fromarray(rgb.astype(np.uint8)).save(stream, format="PNG")
    return stream.getvalue()

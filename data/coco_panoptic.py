"""COCO 2017 panoptic, from the three archives of cocodataset.org.

An annotation whose photograph or PNG is missing is an error. A photograph that the
JSON doesn't name, or gives no segment, is left out and counted, in training and in
validation, as the method's authors do. Where JSON and PNG disagree on an image's
segments, both are needed: a segment of the JSON without a pixel is left out, pixels
without a row in the JSON become void; both are counted and reported.
"""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from data.archives import Archive, ZipSource, open_archives, some
from data.builder import RecordBuilder
from eomt_jax import dataset_info
from eomt_jax.pipeline.records import Record

_ANNOTATIONS = "panoptic_annotations_trainval2017.zip"
_FOLDERS = {"train": "train2017", "validation": "val2017"}
_IMAGES_URL = "http://images.cocodataset.org/zips/"
ARCHIVES = (
    Archive("train2017.zip", f"{_IMAGES_URL}train2017.zip", "19 GB", ("train2017/",)),
    Archive("val2017.zip", f"{_IMAGES_URL}val2017.zip", "0.8 GB", ("val2017/",)),
    Archive(
        _ANNOTATIONS,
        f"http://images.cocodataset.org/annotations/{_ANNOTATIONS}",
        "0.9 GB",
        tuple(
            f"annotations/panoptic_{folder}.{kind}"
            for folder in _FOLDERS.values()
            for kind in ("json", "zip")
        ),
    ),
)


@dataclasses.dataclass(frozen=True)
class _Item:
    """One annotated photograph and where its files are.

    Attributes:
      segments: int64 [T, 3]; segment id, label, is_crowd.
    """

    split: str
    image_id: str
    height: int
    width: int
    photograph: str
    segments_png: str
    segments: np.ndarray


class CocoPanoptic(RecordBuilder):
    """Builder of `coco_panoptic`."""

    classes = dataset_info.load_classes("coco_panoptic")
    needs_archives = True
    description = "COCO 2017 with panoptic segments: 80 thing and 53 stuff classes."

    def __init__(self, *, archives: epath.PathLike | None = None, **kwargs):
        super().__init__(**kwargs)
        self._folder = archives
        # Segment ids have 24 bits: one table turns a whole map at once, and only the
        # rows in use are touched.
        self._segment_numbers = np.zeros(1 << 24, np.uint16)

    def plan(self) -> Mapping[str, Sequence[_Item]]:
        opened = open_archives(
            self._folder, ARCHIVES, dataset=self.name, stack=self.open_files
        )
        annotations = opened[_ANNOTATIONS]
        self._photographs = {
            split: opened[f"{folder}.zip"] for split, folder in _FOLDERS.items()
        }
        self._segment_pngs = {
            split: self.open_files.enter_context(
                annotations.inner(f"annotations/panoptic_{folder}.zip")
            )
            for split, folder in _FOLDERS.items()
        }
        return {split: self._plan_split(split, annotations) for split in _FOLDERS}

    def make_record(self, item: _Item) -> Record | None:
        segment_map, segments = self._read_segments(item)
        photograph = self._photographs[item.split].read(item.photograph)
        _check_size(photograph, item, item.photograph)
        if not len(segments):
            self.note("images without a segment's pixel, left out", item.image_id)
            return None
        return Record(
            image_bytes=photograph,
            segment_map=segment_map,
            labels=segments[:, 1].astype(np.int32),
            is_crowd=segments[:, 2].astype(np.bool_),
            image_id=item.image_id,
            height=item.height,
            width=item.width,
        )

    def _plan_split(self, split: str, annotations: ZipSource) -> list[_Item]:
        """What a split holds, in the order in which the segments' PNGs lie."""
        folder = _FOLDERS[split]
        file = f"annotations/panoptic_{folder}.json"
        try:
            items = _parse_items(split, annotations.read(file))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} in {annotations.name} is not COCO's panoptic format of 2017 "
                f"({error!r}); {annotations.source}"
            ) from error
        photographs, pngs = self._photographs[split], self._segment_pngs[split]
        _check_all_there([i.photograph for i in items], photographs, file)
        _check_all_there([i.segments_png for i in items], pngs, file)

        unused = set(photographs.names()) - {i.photograph for i in items}
        if unused:
            what = f"{split} photographs without annotation or segment, left out"
            self.note(what, *unused)
        return sorted(items, key=lambda item: pngs.order(item.segments_png))

    def _read_segments(self, item: _Item) -> tuple[np.ndarray, np.ndarray]:
        """(id map, its segments in order): those of the JSON that have a pixel."""
        pngs = self._segment_pngs[item.split]
        encoded = pngs.read(item.segments_png)
        image = _check_size(encoded, item, item.segments_png)
        try:
            red, green, blue = (
                np.asarray(channel, np.uint32)
                for channel in image.convert("RGB").split()
            )
        except (OSError, SyntaxError) as error:
            raise ValueError(
                f"{item.segments_png} in {pngs.name} can't be decoded ({error}); "
                f"{pngs.source}"
            ) from error
        ids = red | green << 8 | blue << 16

        segment_ids = item.segments[:, 0]
        self._segment_numbers[segment_ids] = np.arange(1, len(segment_ids) + 1)
        numbers = self._segment_numbers[ids]
        self._segment_numbers[segment_ids] = 0
        if np.any((numbers == 0) & (ids != 0)):
            what = "images with segments that the JSON lacks, now void"
            self.note(what, item.image_id)

        seen = np.bincount(numbers.ravel(), minlength=len(segment_ids) + 1) > 0
        seen[0] = False
        if seen.sum() == len(segment_ids):
            return numbers, item.segments
        self.note("images with segments without a pixel, left out", item.image_id)
        compact = (np.cumsum(seen) * seen).astype(np.uint16)
        return compact[numbers], item.segments[seen[1:]]


def _parse_items(split: str, text: bytes) -> list[_Item]:
    """The annotated images of a panoptic JSON that have a segment."""
    folder = _FOLDERS[split]
    labels = {c.id: label for label, c in enumerate(CocoPanoptic.classes)}

    def shrink(row: dict[str, Any]) -> Any:
        # The published JSON has over a million segments: as dicts they fill memory.
        if "iscrowd" in row:
            return row["id"], labels[row["category_id"]], row["iscrowd"]
        return row

    table = json.loads(text, object_hook=shrink)
    images = {image["id"]: image for image in table["images"]}
    items = []
    for annotation in table["annotations"]:
        image = images[annotation["image_id"]]
        if annotation["segments_info"]:
            item = _Item(
                split=split,
                image_id=image["file_name"].rpartition(".")[0],
                height=image["height"],
                width=image["width"],
                photograph=f"{folder}/{image['file_name']}",
                segments_png=f"panoptic_{folder}/{annotation['file_name']}",
                segments=np.array(annotation["segments_info"], np.int64),
            )
            items.append(item)
    return items


def _check_all_there(wanted: Sequence[str], archive: ZipSource, file: str) -> None:
    missing = [name for name in wanted if name not in archive]
    if missing:
        raise ValueError(
            f"{file} annotates {len(missing):,} files that {archive.name} lacks: "
            f"{some(missing)}; {archive.source}"
        )


def _check_size(encoded: bytes, item: _Item, file: str) -> Image.Image:
    """The picture, not yet decoded; ValueError unless it is as large as annotated."""
    try:
        image = Image.open(io.BytesIO(encoded))
    except OSError as error:
        raise ValueError(f"{file} is no picture ({error})") from error
    if image.size != (item.width, item.height):
        width, height = image.size
        raise ValueError(
            f"{file} has {height} x {width} pixels, but its annotation says "
            f"{item.height} x {item.width}"
        )
    return image

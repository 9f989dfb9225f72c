"""Predictions in the formats that the benchmarks' servers and tools take.

| task     | in the folder                          | format                            |
|----------|----------------------------------------|-----------------------------------|
| panoptic | panoptic.json, panoptic/IMAGE.png      | COCO panoptic results             |
| instance | instances.json                         | COCO results with run lengths     |
| semantic | IMAGE.png                              | one channel, the dataset's own ids |

Class ids are those of the dataset's own files, so that semantic maps are what ADE20K
(class + 1) and Cityscapes (labelIds) ask for.

Legend: H W the photograph's pixels.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import UInt8, UInt16
from PIL import Image

from eomt_jax.evaluation.mask_ap import encode_mask_bits
from eomt_jax.file_names import path_below
from eomt_jax.inference.segmentation import Segmentation
from eomt_jax.parallel.processes import is_main
from eomt_jax.pipeline.samples import Source
from eomt_jax.types import Batch, DatasetInfo, Task

Rows = list[dict[str, Any]]


class Submission:
    """Writes predictions as they come, and lets nobody take a part for the whole.

        with Submission(folder, source, task="panoptic") as submission:
            for batch in batches:
                submission(batch, prediction)

    Until the block ends everything lies in a hidden folder beside `folder`; it gets its
    name when all is written and is deleted if the block fails. A run that was killed
    leaves the hidden folder, and the next one clears it away. Of several processes each
    writes its own images, into a folder that all must see; the first one joins them.
    """

    def __init__(self, folder: epath.PathLike, source: Source, *, task: Task):
        """Prepares to write; raises before anything is predicted.

        Args:
          folder: must not exist yet, or be empty.
          source: the split that is predicted, for the images' names and class ids.
          task: of the predictions.

        Raises:
          ValueError: the folder holds something, or ids don't fit the format.
        """
        self._folder = epath.Path(folder).expanduser()
        self._unfinished = self._folder.parent / f".{self._folder.name}.unfinished"
        self._source = source
        self._task: Task = task
        if self._folder.exists() and any(self._folder.iterdir()):
            raise ValueError(
                f"{self._folder} holds something already; name another folder for the "
                "predictions, or delete it"
            )
        _check_ids(source.info, task)

    def __enter__(self):
        if is_main():
            if self._unfinished.exists():
                self._unfinished.rmtree()
            self._unfinished.mkdir(parents=True)
        _wait_for_all("submission_begin")
        self._rows = self._part(jax.process_index()).open("w")
        return self

    def __call__(self, batch: Batch, prediction: Any) -> None:
        """Writes the images of a batch, but not the rows that only fill it up.

        Args:
          batch: of an evaluation, in host memory; of several processes its own rows.
          prediction: for this batch, in host memory.
        """
        write = _FORMATS[self._task]
        for row in np.flatnonzero(batch.valid).tolist():
            image_id = self._source.image_id(int(batch.example_index[row]))
            height, width = (int(side) for side in batch.original_size[row])
            rows = write(
                prediction,
                row,
                (height, width),
                folder=self._unfinished,
                image_id=image_id,
                info=self._source.info,
            )
            self._rows.writelines(json.dumps(line) + "\n" for line in rows)

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        self._rows.close()
        if exception_type is not None:
            if is_main():
                self._unfinished.rmtree(missing_ok=True)
            return
        _wait_for_all("submission_written")
        if is_main():
            self._join_parts()
            if self._folder.exists():
                self._folder.rmdir()
            self._unfinished.rename(self._folder)
        _wait_for_all("submission_end")

    def _part(self, process: int) -> epath.Path:
        return self._unfinished / f"part_{process:05d}.jsonl"

    def _join_parts(self) -> None:
        """One JSON file of all processes' rows, line by line."""
        parts = [self._part(process) for process in range(jax.process_count())]
        if self._task in _FRAMES:
            name, before, after = _FRAMES[self._task]
            separator = "\n"
            with (self._unfinished / name).open("w") as joined:
                joined.write(before)
                for part in parts:
                    with part.open() as lines:
                        for line in lines:
                            joined.write(separator + line.rstrip())
                            separator = ",\n"
                joined.write("\n" + after + "\n")
        for part in parts:
            part.unlink()


def _write_panoptic(
    prediction: Any,
    row: int,
    size: tuple[int, int],
    *,
    folder: epath.Path,
    image_id: str,
    info: DatasetInfo,
) -> Rows:
    """Segment ids as R + 256·G + 65536·B, black where there is no segment."""
    segmentation = Segmentation.from_prediction(prediction, row, size)
    id_map = np.asarray(segmentation.id_map)
    channels = [id_map >> shift & 255 for shift in (0, 8, 16)]
    path = _png_path(folder / "panoptic", image_id)
    _write_png(path, np.stack(channels, -1).astype(np.uint8))
    segments = [
        {"id": i, "category_id": info.classes[label].id}
        for i, label in enumerate(segmentation.labels, start=1)
    ]
    image: dict[str, Any] = {
        "image_id": _image_number(image_id),
        "file_name": f"{image_id}.png",
    }
    return [{**image, "segments_info": segments}]


def _write_instance(
    prediction: Any,
    row: int,
    size: tuple[int, int],
    *,
    folder: epath.Path,
    image_id: str,
    info: DatasetInfo,
) -> Rows:
    """Best first; empty masks, which score 0 and match nothing, are left out."""
    del folder
    scores = np.asarray(prediction.scores[row])
    order = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores > 0)]
    rles = encode_mask_bits(np.asarray(prediction.mask_bits[row])[order], size)
    return [
        {
            "image_id": _image_number(image_id),
            "category_id": info.classes[prediction.labels[row][i]].id,
            "segmentation": {**rle, "counts": rle["counts"].decode("ascii")},
            "score": float(scores[i]),
        }
        for i, rle in zip(order, rles, strict=True)
    ]


def _write_semantic(
    prediction: Any,
    row: int,
    size: tuple[int, int],
    *,
    folder: epath.Path,
    image_id: str,
    info: DatasetInfo,
) -> Rows:
    """The id of each pixel's class; 8 bits where all ids fit, else 16."""
    ids = np.array([c.id for c in info.classes])
    ids = ids.astype(np.uint8 if ids.max() < 256 else np.uint16)
    label_map = np.asarray(prediction.label_map[row])[: size[0], : size[1]]
    _write_png(_png_path(folder, image_id), ids[label_map])
    return []


_FORMATS: dict[Task, Callable[..., Rows]] = {
    "panoptic": _write_panoptic,
    "instance": _write_instance,
    "semantic": _write_semantic,
}
# File, and what stands around the rows in it.
_FRAMES: dict[Task, tuple[str, str, str]] = {
    "panoptic": ("panoptic.json", '{"annotations": [', "]}"),
    "instance": ("instances.json", "[", "]"),
}


def _check_ids(info: DatasetInfo, task: Task) -> None:
    if task != "semantic":
        return
    wrong = [c for c in info.classes if not 0 <= c.id < 65_536]
    if wrong:
        raise ValueError(
            f"class {wrong[0].name!r} of {info.name} has the id {wrong[0].id}; a PNG "
            "holds 0 to 65535"
        )


def _image_number(image_id: str) -> int | str:
    """COCO's images are numbers, with zeros before them in the files' names."""
    return int(image_id) if image_id.isdecimal() else image_id


def _png_path(folder: epath.Path, image_id: str) -> epath.Path:
    return path_below(folder, image_id, what="image id", ending=".png")


def _write_png(
    path: epath.Path, image: UInt8[np.ndarray, "*shape"] | UInt16[np.ndarray, "H W"]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(image).save(file, format="PNG")


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

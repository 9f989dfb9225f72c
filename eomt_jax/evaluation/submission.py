"""Writes predictions in the formats of the benchmarks' servers and tools.

| task     | in the folder                          | format                            |
|----------|----------------------------------------|-----------------------------------|
| panoptic | panoptic.json, panoptic/IMAGE.png      | COCO panoptic results             |
| instance | instances.json                         | COCO results with run lengths     |
| semantic | IMAGE.png                              | one channel, the dataset's own ids |
|          | confidence/IMAGE.png, if it is measured | 16 bits, as in BRAVO               |

Class ids are those of the dataset's own files, as ADE20K (class + 1) and Cityscapes
(labelIds) require of semantic maps.

Legend: H W pixels of the photograph.
"""

import json
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Integer
from PIL import Image

from eomt_jax.file_names import path_below
from eomt_jax.parallel.processes import is_main
from eomt_jax.pipeline.samples import Source
from eomt_jax.task_registry import get_task
from eomt_jax.types import Batch


class Submission:
    """Writes predictions into a folder that appears when all of them are written.

        with Submission(folder, source, task="panoptic") as submission:
            for batch in batches:
                submission(batch, prediction)

    Until the block ends, the files are in a hidden folder beside `folder`. It gets its
    final name when all is written, and is deleted if the block fails. A run that was
    killed leaves the hidden folder, which the next run deletes. Each of several
    processes writes its own images, into a folder that all must see; the first one
    joins their files.
    """

    def __init__(self, folder: epath.PathLike, source: Source, *, task: str):
        """Prepares to write; raises errors before anything is predicted.

        Args:
          folder: must not exist yet, or be empty.
          source: the split that is predicted; it has the images' names and class ids.
          task: the task of the predictions.

        Raises:
          ValueError: the folder holds something, or ids don't fit the format.
        """
        self._folder = epath.Path(folder).expanduser()
        self._unfinished = self._folder.parent / f".{self._folder.name}.unfinished"
        self._source = source
        self._task = get_task(task)
        if self._folder.exists() and any(self._folder.iterdir()):
            raise ValueError(
                f"{self._folder} holds something already; name another folder for the "
                "predictions, or delete it"
            )
        self._task.check_submission(source.info)

    def __enter__(self):
        if is_main():
            if self._unfinished.exists():
                self._unfinished.rmtree()
            self._unfinished.mkdir(parents=True)
        _wait_for_all("submission_begin")
        self._rows = self._part(jax.process_index()).open("w")
        return self

    def __call__(self, batch: Batch, prediction: Any) -> None:
        """Writes the images of a batch, without the rows that only fill it up.

        Args:
          batch: a batch of an evaluation, in host memory, with the process's own rows.
          prediction: the prediction for this batch, in host memory.
        """
        for row in np.flatnonzero(batch.valid).tolist():
            image_id = self._source.image_id(int(batch.example_index[row]))
            height, width = (int(side) for side in batch.original_size[row])
            rows = self._task.submit(
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
        """Joins the rows of all processes to one JSON file, line by line."""
        parts = [self._part(process) for process in range(jax.process_count())]
        if self._task.rows_file is not None:
            name, before, after = self._task.rows_file
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


def image_number(image_id: str) -> int | str:
    """Returns the number of an image of COCO, or the id itself if it is no number.

    COCO's file names have zeros before the number.
    """
    return int(image_id) if image_id.isdecimal() else image_id


def write_png(
    folder: epath.Path, image_id: str, image: Integer[np.ndarray, "H W *rgb"]
) -> None:
    """Writes the image's PNG into the folder."""
    path = path_below(folder, image_id, what="image id", ending=".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        Image.fromarray(image).save(file, format="PNG")


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

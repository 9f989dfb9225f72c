"""Draws pictures of an evaluation: predictions beside the targets."""

from typing import Any

import numpy as np
from etils import epath

from eomt_jax.file_names import path_below
from eomt_jax.parallel.processes import is_main
from eomt_jax.pictures.comparison import (
    draw_comparison,
    evaluation_pictures,
    write_picture,
)
from eomt_jax.pipeline.samples import Source
from eomt_jax.types import Batch


class SpreadSource:
    """A split of some examples that are spread evenly over another split.

    Neighbours in a split are often alike, such as frames of one film.
    """

    def __init__(self, source: Source, count: int):
        """Chooses the examples.

        Args:
          source: the split.
          count: how many examples are chosen; all of a split that has fewer.
        """
        count = min(count, len(source))
        self.info, self.split = source.info, source.split
        self._source = source
        self._positions = [i * len(source) // count for i in range(count)]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._positions[index]]

    def image_id(self, index: int) -> str:
        return self._source.image_id(self._positions[index])


class PictureWriter:
    """Draws the first images of an evaluation, each into a file named after its image.

    With several processes only the first one draws, from its own rows.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        source: Source,
        *,
        task: str,
        num_pictures: int,
    ):
        """Sets the folder; draws nothing yet.

        Args:
          folder: made if missing; files of the same names are replaced.
          source: the split that is evaluated.
          task: of the predictions.
          num_pictures: how many are drawn.
        """
        self._folder = epath.Path(folder).expanduser()
        self._source = source
        self._task = task
        self._num_left = num_pictures if is_main() else 0

    def __call__(self, batch: Batch, prediction: Any) -> None:
        """Draws images of a batch until num_pictures are drawn.

        Batch and prediction are in host memory.
        """
        if not self._num_left:
            return
        pictures = evaluation_pictures(
            batch,
            prediction,
            self._source,
            task=self._task,
            max_pictures=self._num_left,
        )
        self._num_left -= len(pictures)
        indices = batch.example_index[np.asarray(batch.valid)].tolist()
        for index, picture in zip(indices, pictures):
            image_id = self._source.image_id(index)
            path = path_below(self._folder, image_id, what="image id", ending=".png")
            drawn = draw_comparison([picture], self._source.info)
            write_picture(path, drawn)

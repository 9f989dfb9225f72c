"""Pictures of an evaluation: what was predicted beside what was wanted."""

from typing import Any

import numpy as np
from etils import epath

from eomt_jax.file_names import path_below
from eomt_jax.inference.comparison import (
    draw_comparison,
    evaluation_pictures,
    write_picture,
)
from eomt_jax.parallel.processes import is_main
from eomt_jax.pipeline.samples import Source
from eomt_jax.types import Batch


class PictureWriter:
    """Draws the first images of an evaluation, each a file named as its image.

    Of several processes the first one alone draws, and of its own rows.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        source: Source,
        *,
        num_pictures: int,
    ):
        """Says where to.

        Args:
          folder: need not exist; files of the same names are replaced.
          source: the split that is evaluated.
          num_pictures: how many are drawn.
        """
        self._folder = epath.Path(folder).expanduser()
        self._source = source
        self._num_left = num_pictures if is_main() else 0

    def __call__(self, batch: Batch, prediction: Any) -> None:
        """Draws what is left to draw; batch and prediction in host memory."""
        if not self._num_left:
            return
        pictures = evaluation_pictures(
            batch, prediction, self._source, max_pictures=self._num_left
        )
        self._num_left -= len(pictures)
        indices = batch.example_index[np.asarray(batch.valid)].tolist()
        for index, picture in zip(indices, pictures):
            image_id = self._source.image_id(index)
            path = path_below(self._folder, image_id, what="image id", ending=".png")
            drawn = draw_comparison([picture], self._source.info)
            write_picture(path, drawn)

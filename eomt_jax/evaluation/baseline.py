"""A constant prediction, whose score every trained model should exceed."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from pycocotools import mask as mask_codec

from eomt_jax.parallel.mesh import batch_sharding, create_mesh
from eomt_jax.pipeline.records import Record
from eomt_jax.task_registry import get_task
from eomt_jax.types import Batch, DatasetInfo


class ConstantClass:
    """Predicts one segment of one class on each photograph, in place of a Runner.

    Attributes:
      task: the task that the predictions are for.
      mesh: the mesh that batches lie on.
    """

    def __init__(
        self,
        label: int,
        info: DatasetInfo,
        *,
        task: str | None = None,
        mesh: Mesh | None = None,
    ):
        """Compiles the function that makes the prediction.

        Args:
          label: index of the class, 0 to K - 1.
          info: class table of the dataset; its largest photograph sets the canvas size.
          task: what the predictions are for; the dataset's own task by default.
          mesh: the mesh that batches lie on; by default the first device alone.
        """
        self.task = get_task(task or info.task).name
        self.mesh = mesh or create_mesh(devices=jax.devices()[:1])
        self._label = label
        self._canvas_size = info.max_image_size
        self._run = jax.jit(self._predict, out_shardings=batch_sharding(self.mesh))

    def __call__(self, params: Any, batch: Batch) -> Any:
        """Returns one segment for each photograph, in the form of the task's Runner."""
        del params
        return self._run(batch.original_size)

    def _predict(self, original_size: jax.Array) -> Any:
        height, width = self._canvas_size
        inside_rows = jnp.arange(height) < original_size[:, :1]
        inside_columns = jnp.arange(width) < original_size[:, 1:]
        inside = inside_rows[:, :, None] & inside_columns[:, None, :]
        return get_task(self.task).constant(self._label, inside)


def most_frequent_class(records: Iterable[Record], num_classes: int) -> int:
    """Returns the class with the most pixels; pixels of overlapping objects all count.

    Args:
      records: those of the training split.
      num_classes: K.
    """
    pixels = np.zeros(num_classes, np.int64)
    for record in records:
        np.add.at(pixels, record.labels, _areas(record))
    return int(pixels.argmax())


def _areas(record: Record) -> np.ndarray:
    """Returns the number of pixels of each segment."""
    num_segments = len(record.labels)
    if record.segment_map is not None:
        return np.bincount(record.segment_map.ravel(), minlength=num_segments + 1)[1:]
    rles: Any = [
        {"size": list(record.size), "counts": rle} for rle in record.rles or ()
    ]
    return np.asarray(mask_codec.area(rles), np.int64)

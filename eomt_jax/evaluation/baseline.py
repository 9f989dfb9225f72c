"""The predictor that any trained model must beat."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from pycocotools import mask as mask_codec

from eomt_jax.parallel.mesh import batch_sharding, create_mesh
from eomt_jax.pipeline.eval_samples import chosen_task
from eomt_jax.pipeline.records import Record
from eomt_jax.task_registry import get_task
from eomt_jax.types import Batch, DatasetInfo


class ConstantClass:
    """Calls every photograph one segment of one class; stands in for a Runner.

    Attributes:
      task: see __init__.
      mesh: that batches lie on.
    """

    def __init__(
        self,
        label: int,
        info: DatasetInfo,
        *,
        task: str | None = None,
        mesh: Mesh | None = None,
    ):
        """Prepares the function.

        Args:
          label: of the class, 0 to K - 1.
          info: of the data set, whose largest photograph the canvas holds.
          task: what the predictions are for; the data set's own by default.
          mesh: that batches lie on; by default the first device alone.
        """
        self.task = chosen_task(task, info)
        self.mesh = mesh or create_mesh(devices=jax.devices()[:1])
        self._label = label
        self._canvas_size = info.max_image_size
        self._run = jax.jit(self._predict, out_shardings=batch_sharding(self.mesh))

    def __call__(self, params: Any, batch: Batch) -> Any:
        """One segment over each photograph, as the task's Runner would tell it."""
        del params
        return self._run(batch.original_size)

    def _predict(self, original_size: jax.Array) -> Any:
        height, width = self._canvas_size
        inside_rows = jnp.arange(height) < original_size[:, :1]
        inside_columns = jnp.arange(width) < original_size[:, 1:]
        inside = inside_rows[:, :, None] & inside_columns[:, None, :]
        return get_task(self.task).constant(self._label, inside)


def most_frequent_class(records: Iterable[Record], num_classes: int) -> int:
    """The class with the most pixels; where objects overlap, each has its own.

    Args:
      records: of the training split.
      num_classes: K.
    """
    pixels = np.zeros(num_classes, np.int64)
    for record in records:
        np.add.at(pixels, record.labels, _areas(record))
    return int(pixels.argmax())


def _areas(record: Record) -> np.ndarray:
    """Pixels of each segment."""
    num_segments = len(record.labels)
    if record.segment_map is not None:
        return np.bincount(record.segment_map.ravel(), minlength=num_segments + 1)[1:]
    rles: Any = [
        {"size": list(record.size), "counts": rle} for rle in record.rles or ()
    ]
    return np.asarray(mask_codec.area(rles), np.int64)

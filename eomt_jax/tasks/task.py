"""The contract of a task, which everything that depends on a task asks.

A task of your own is one file: a subclass of Task under `register_task`, imported before
the task is asked for, such as tests/tasks/foreground.py.

Legend: B batch, Q queries, K classes, h4 w4 the mask logits' size, Hc Wc canvas, H W the
photograph's pixels, n segments.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Integer, UInt8

from eomt_jax.inference.draw import draw_segmentation
from eomt_jax.inference.post_processing import Frame
from eomt_jax.inference.result import Result
from eomt_jax.inference.segmentation import Segmentation, rgb_ids
from eomt_jax.pipeline.records import Record
from eomt_jax.types import Array, DatasetInfo

Columns = tuple[tuple[str, str], ...]
Rows = list[dict[str, Any]]


class Task(abc.ABC):
    """What is found in a photograph, how it is made, measured, written and drawn.

    Attributes:
      name: in configs, on the command line, in data sets and results.
      threshold: score from which on a segment counts by default.
      windows: True where a photograph is cut into square windows, False where it is
        fitted into the network's input and padded.
      overlapping: True where segments may overlap. Data sets then hold a mask for each
        segment, batches of an evaluation carry no masks, and the metric matches every
        image on the host with the split's record of it; otherwise targets are id maps
        and the metric counts on the device.
      measured_on: tasks of the data sets whose annotations tell how good predictions are.
      class_columns: heading and key of the numbers of a class that a table shows; the
        first orders the classes. Without any the table has the means alone.
      mean_columns: the same of the means; the first is the score that checkpoints are
        compared by.
      rows_file: name of the submission's JSON file, and what stands in it before and
        after the rows; None where there are no rows.
      mask_values: what the pixels of `mask_picture` are, in terms of Result.to_coco.
    """

    name: ClassVar[str]
    threshold: ClassVar[float] = 0.0
    windows: ClassVar[bool] = False
    overlapping: ClassVar[bool] = False
    measured_on: ClassVar[tuple[str, ...]]
    class_columns: ClassVar[Columns]
    mean_columns: ClassVar[Columns]
    rows_file: ClassVar[tuple[str, str, str] | None] = None
    mask_values: ClassVar[str] = "id = R + 256 G + 65536 B"

    def check_classes(self, info: DatasetInfo) -> None:
        """Raises ValueError if the classes have nothing that the task could find."""

    def class_note(self, info: DatasetInfo) -> str:
        """Says to a user why the task makes little sense for the classes, or ""."""
        return ""

    @abc.abstractmethod
    def post_process(
        self,
        mask_logits: Any,
        class_logits: Float[Array, "*windows Q K1"],
        frame: Frame,
        info: DatasetInfo,
        **options: Any,
    ) -> Any:
        """One image's prediction, a pytree of arrays on the canvas; runs under jit.

        Args:
          mask_logits: [Q, h4, w4], or MaskFactors, of which an array of indices takes the
            logits of some queries; in windows [windows, Q, h4, w4].
          class_logits: the last class is "no object".
          frame: where the image lies.
          info: the class table.
          **options: see post_processing.post_processing.
        """

    @abc.abstractmethod
    def segmentation(
        self,
        prediction: Any,
        row: int,
        size: tuple[int, int],
        *,
        min_score: float = 0.0,
    ) -> Segmentation:
        """Segments of image `row` of a batch's prediction, cut to the photograph.

        Args:
          prediction: in host memory (jax.device_get).
          row: of the batch.
          size: (H, W) of the photograph.
          min_score: segments that may overlap and score less are left out.
        """

    def tile_segmenter(self) -> Callable[..., Segmentation]:
        """The function (network, pixels, threshold=) that looks at a photograph in tiles.

        Raises:
          ValueError: the task can't be put together from tiles.
        """
        raise ValueError(
            f"{self.name} segmentation can't be put together from tiles; ask for the "
            "semantic or the instance task"
        )

    @abc.abstractmethod
    def metric(self, info: DatasetInfo) -> Any:
        """The clu metric for one class table.

        Its `from_model_output` takes prediction, batch_valid, targets and original_size,
        or, where segments may overlap, prediction, batch_valid, example_index and source.
        Its `compute` returns what tables.summarize takes.
        """

    @abc.abstractmethod
    def constant(self, label: int, inside: Bool[Array, "B Hc Wc"]) -> Any:
        """The prediction that each photograph is one segment of class `label`."""

    def check_submission(self, info: DatasetInfo) -> None:
        """Raises ValueError if the classes' ids don't fit the submission's format."""

    @abc.abstractmethod
    def submit(
        self,
        prediction: Any,
        row: int,
        size: tuple[int, int],
        *,
        folder: epath.Path,
        image_id: str,
        info: DatasetInfo,
    ) -> Rows:
        """Writes an image's own files, if there are any; returns its rows for the JSON.

        Args:
          prediction: of a batch, in host memory.
          row: of the batch.
          size: (H, W) of the photograph.
          folder: of the submission.
          image_id: the photograph's name in the split.
          info: the class table.
        """

    def target(self, record: Record) -> Segmentation:
        """What a picture shows beside the prediction for this photograph."""
        return Segmentation.from_record(record)

    def draw(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        segmentation: Segmentation,
        info: DatasetInfo,
        **options: Any,
    ) -> UInt8[np.ndarray, "H2 W2 3"]:
        """A picture of a photograph's segments; options as draw_segmentation has them."""
        return draw_segmentation(image, segmentation, info, **options)

    def mask_picture(self, result: Result) -> Integer[np.ndarray, "H W *rgb"]:
        """What eomt-predict saves as PNG of a photograph's segments."""
        return rgb_ids(result.id_map)

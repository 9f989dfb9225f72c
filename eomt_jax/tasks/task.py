"""Defines the contract of a task. Code that depends on the task asks its object.

A task of your own is one file with a subclass of Task under `register_task`. It must be
imported before the task is used. tests/tasks/foreground.py is an example.

Legend: B batch, Q queries, K classes, h4 w4 the mask logits' size, Hc Wc canvas, H W the
photograph's pixels, n segments.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Integer, UInt8

from eomt_jax.pictures.overlays import draw_segmentation
from eomt_jax.pipeline.records import Record
from eomt_jax.postprocess.post_processing import Frame
from eomt_jax.postprocess.segmentation import Segmentation, rgb_ids
from eomt_jax.predict.result import Result
from eomt_jax.types import Array, DatasetInfo

Columns = tuple[tuple[str, str], ...]
Rows = list[dict[str, Any]]


class Task(abc.ABC):
    """Defines what is found in a photograph, and how it is measured, written and drawn.

    Attributes:
      name: stands for the task in configs, commands, datasets and results.
      threshold: the default of the score from which on a segment counts.
      windows: True where a photograph is cut into square windows, False where it is
        fitted into the network's input and padded.
      overlapping: True if segments may overlap. Datasets then hold a mask for each
        segment, batches of an evaluation carry no masks, and the metric compares each
        image with its record on the host. Otherwise targets are id maps and the metric
        counts on the device.
      measured_on: tasks of the datasets whose annotations this one can be measured with.
      class_columns: headings and keys of the numbers that a table shows for each class.
        The first number sorts the classes; if there is none, the table has only means.
      mean_columns: headings and keys of the means. The first one is the score by which
        checkpoints are compared.
      rows_file: the name of the submission's JSON file, and the text before and after
        its rows; None if the submission has no rows.
      unused_settings: settings of a Segmenter and its calls that change nothing here.
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
    unused_settings: ClassVar[tuple[str, ...]] = ()
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
        """Returns one image's prediction, a pytree of arrays; runs under jit.

        Args:
          mask_logits: [Q, h4, w4]; in windows [windows, Q, h4, w4]. They may be
            MaskFactors, which compute the logits of some queries when they are indexed
            with an array.
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
        """Returns the segments of one image of a batch, cut to the photograph.

        Args:
          prediction: of the batch, in host memory (jax.device_get).
          row: the image's row in the batch.
          size: (H, W) of the photograph.
          min_score: segments that may overlap and score less are left out.
        """

    def tile_segmenter(self) -> Callable[..., Segmentation]:
        """Returns the function (network, pixels, threshold=) that works tile by tile.

        Raises:
          ValueError: the task can't be put together from tiles.
        """
        raise ValueError(
            f"{self.name} segmentation can't be put together from tiles; ask for the "
            "semantic or the instance task"
        )

    @abc.abstractmethod
    def metric(self, info: DatasetInfo) -> Any:
        """Returns the class of the clu metric for one class table.

        Its `from_model_output` takes prediction, batch_valid, targets and original_size;
        if segments may overlap, prediction, batch_valid, example_index and source. It has
        a `to_host`, as PanopticQuality does, and its `compute` returns what
        tables.summarize takes.
        """

    def confidence_metric(self, info: DatasetInfo) -> Any:
        """Returns a metric as `metric` does, of confidences too.

        Raises:
          ValueError: the task's predictions have no class and confidence a pixel.
        """
        raise ValueError(
            f"confidence is measured on classes of pixels, which {self.name} "
            "segmentation doesn't give: ask for the semantic task"
        )

    @abc.abstractmethod
    def constant(self, label: int, inside: Bool[Array, "B Hc Wc"]) -> Any:
        """Returns the prediction that each photograph is one segment of class `label`."""

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
        """Writes the files of one image, if it has any, and returns its rows.

        Args:
          prediction: of the batch, in host memory.
          row: the image's row in the batch.
          size: (H, W) of the photograph.
          folder: the submission's folder.
          image_id: the photograph's name in the split.
          info: the class table.
        """

    def target(self, record: Record) -> Segmentation:
        """Returns the annotated segments that a picture shows beside the prediction."""
        return Segmentation.from_record(record)

    def draw(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        segmentation: Segmentation,
        info: DatasetInfo,
        **options: Any,
    ) -> UInt8[np.ndarray, "H2 W2 3"]:
        """Draws a photograph's segments; takes the options of draw_segmentation."""
        return draw_segmentation(image, segmentation, info, **options)

    def mask_picture(self, result: Result) -> Integer[np.ndarray, "H W *rgb"]:
        """Returns the picture that eomt-predict saves as PHOTO.masks.png."""
        return rgb_ids(result.id_map)

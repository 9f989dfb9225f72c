"""Turns one image's logits into the prediction of a task.

Legend: Q queries, h4 w4 the mask logits' size.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int

from eomt_jax.models.mask_product import MaskFactors
from eomt_jax.postprocess import geometry
from eomt_jax.task_registry import get_task
from eomt_jax.types import Array, DatasetInfo


@dataclasses.dataclass(frozen=True)
class Frame:
    """Says where one image lies in the network's input and on the canvas.

    Attributes:
      content_size: (height, width) of the photograph in the network's input; in windows,
        of the resized photograph that they are cut from.
      original_size: (height, width) of the photograph.
      image_size: (height, width) of the network's input.
      canvas_size: (height, width) that holds the photograph.
    """

    content_size: Int[Array, " 2"]
    original_size: Int[Array, " 2"]
    image_size: tuple[int, int]
    canvas_size: tuple[int, int]

    def restore_matrices(
        self, mask_logits: Float[Array, "Q h4 w4"] | MaskFactors
    ) -> geometry.RestoreMatrices:
        """Returns the matrices that resize a fitted image's logits to the photograph."""
        _, logits_height, logits_width = mask_logits.shape
        return geometry.restore_matrices(
            self.content_size,
            self.original_size,
            logits_size=(logits_height, logits_width),
            image_size=self.image_size,
            canvas_size=self.canvas_size,
        )


def post_processing(
    info: DatasetInfo, task: str, *, canvas_size: tuple[int, int], **options: Any
) -> Callable[..., Any]:
    """Returns the function that makes one image's prediction from its logits.

    Args:
      info: the dataset whose classes the model predicts.
      task: the name of the task.
      canvas_size: (height, width) that holds the photograph.
      **options: score_threshold, which may be traced, overlap_threshold, num_instances,
        nms_iou and confidence. The task takes those that it needs; see
        panoptic_segmentation, instance_segmentation and confidence.KINDS.

    Returns:
      (mask_logits, class_logits, content_size, original_size, *, image_size) →
      prediction; image_size is (height, width) of the network's input, and the logits
      of a task that works in windows have an axis for them.
    """

    def segment(
        mask_logits: Any,
        class_logits: Array,
        content_size: Array,
        original_size: Array,
        *,
        image_size: tuple[int, int],
    ) -> Any:
        frame = Frame(content_size, original_size, image_size, canvas_size)
        return get_task(task).post_process(
            mask_logits, class_logits, frame, info, **options
        )

    return segment

"""The post-processing of each task, for one image's logits.

Legend: Q queries, K classes, h4 w4 the mask logits' size.
"""

import functools
from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int

from eomt_jax.inference import geometry, instance, panoptic, semantic
from eomt_jax.inference.instance import InstancePrediction
from eomt_jax.inference.panoptic import PanopticPrediction
from eomt_jax.inference.semantic import SemanticPrediction
from eomt_jax.models.mask_product import MaskFactors
from eomt_jax.types import Array, DatasetInfo, Task

Prediction = PanopticPrediction | InstancePrediction | SemanticPrediction


def post_processing(
    info: DatasetInfo,
    task: Task,
    *,
    canvas_size: tuple[int, int],
    score_threshold: float | Float[Array, ""] = 0.8,
    overlap_threshold: float = 0.8,
    num_instances: int = 100,
    nms_iou: float | None = None,
) -> Callable[..., Prediction]:
    """What makes one image's segmentation from its logits.

    Args:
      info: of the data set whose classes the model predicts.
      task: what to make.
      canvas_size: (height, width) that holds the photograph.
      score_threshold: see panoptic_segmentation; may be traced.
      overlap_threshold: see panoptic_segmentation.
      num_instances: see instance_segmentation.
      nms_iou: see instance_segmentation.

    Returns:
      (mask_logits, class_logits, content_size, original_size, *, image_size) →
      prediction; image_size is (height, width) of the network's input, and the logits
      of semantic segmentation have an axis for windows.
    """
    if task == "semantic":
        segment = _segment_windows
    elif task == "instance":
        segment = functools.partial(
            _segment_canvas,
            instance.instance_segmentation,
            is_thing=info.is_thing,
            num_instances=num_instances,
            nms_iou=nms_iou,
        )
    else:
        segment = functools.partial(
            _segment_canvas,
            panoptic.panoptic_segmentation,
            is_thing=info.is_thing,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
        )
    return functools.partial(segment, canvas_size=canvas_size)


def _segment_windows(
    *inputs: Array, image_size: tuple[int, int], canvas_size: tuple[int, int]
) -> SemanticPrediction:
    """Post-processes an image that was cut into square windows."""
    return semantic.semantic_segmentation(
        *inputs, image_size=image_size[0], canvas_size=canvas_size
    )


def _segment_canvas(
    segment: Callable[..., Prediction],
    mask_logits: Float[Array, "Q h4 w4"] | MaskFactors,
    class_logits: Float[Array, "Q K1"],
    content_size: Int[Array, " 2"],
    original_size: Int[Array, " 2"],
    *,
    image_size: tuple[int, int],
    canvas_size: tuple[int, int],
    **options: Any,
) -> Prediction:
    """Post-processes an image that was fitted and padded."""
    _, logits_height, logits_width = mask_logits.shape
    restore = geometry.restore_matrices(
        content_size,
        original_size,
        logits_size=(logits_height, logits_width),
        image_size=image_size,
        canvas_size=canvas_size,
    )
    return segment(mask_logits, class_logits, restore, **options)

"""Semantic segmentation: each pixel has one class, whichever object it belongs to."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from eomt_jax.evaluation.mean_iou import MeanIoU
from eomt_jax.evaluation.out_of_distribution import MeanIoUWithConfidence
from eomt_jax.evaluation.submission import write_png
from eomt_jax.postprocess.confidence import confidence_picture
from eomt_jax.postprocess.segmentation import Segmentation, class_ids, cut_confidence
from eomt_jax.postprocess.semantic import SemanticPrediction, semantic_segmentation
from eomt_jax.predict.tiles import classes_of_tiles
from eomt_jax.task_registry import register_task
from eomt_jax.tasks.task import Rows, Task


@register_task
class Semantic(Task):
    """Finds the class of each pixel; submits a PNG of the classes' ids."""

    name = "semantic"
    windows = True
    unused_settings = ("threshold", "max_instances", "nms_iou", "skip_padding")
    measured_on = ("panoptic", "semantic")
    class_columns = (("IoU", "iou"), ("accuracy", "accuracy"), ("pixels", "pixels"))
    mean_columns = (
        ("mIoU", "miou"),
        ("accuracy", "mean_accuracy"),
        ("of pixels", "pixel_accuracy"),
    )

    mask_values = "category_id"

    def class_note(self, info):
        if info.num_classes == 1:
            return (
                "semantic segmentation gives every pixel a class, and "
                f"{info.classes[0].name[:80]!r} is the only one of {info.name}: every "
                "pixel will have it. Ask for the instance task, or train with a class "
                "for the background"
            )
        if info.is_thing.all() and info.task != self.name:
            return (
                f"semantic segmentation gives every pixel a class, and all of "
                f"{info.name} are things: pixels that show none of them will have one "
                "all the same. Ask for the instance or the panoptic task"
            )
        return ""

    def post_process(
        self, mask_logits, class_logits, frame, info, *, confidence="", **_: Any
    ):
        return semantic_segmentation(
            mask_logits,
            class_logits,
            frame.content_size,
            frame.original_size,
            image_size=frame.image_size[0],
            canvas_size=frame.canvas_size,
            confidence=confidence,
        )

    def segmentation(self, prediction, row, size, *, min_score=0.0):
        label_map = np.asarray(prediction.label_map[row])[: size[0], : size[1]]
        return Segmentation.from_label_map(
            label_map, confidence=cut_confidence(prediction, row, size)
        )

    def tile_segmenter(self):
        return classes_of_tiles

    def metric(self, info):
        return MeanIoU.with_classes(info.num_classes)

    def confidence_metric(self, info):
        return MeanIoUWithConfidence.with_classes(info.num_classes)

    def constant(self, label, inside):
        return SemanticPrediction(label_map=jnp.where(inside, label, -1))

    def check_submission(self, info):
        class_ids(np.zeros((0, 0), np.int32), info)

    def submit(self, prediction, row, size, *, folder, image_id, info) -> Rows:
        """Writes the PNGs of class ids and confidences; there are no rows."""
        label_map = np.asarray(prediction.label_map[row])[: size[0], : size[1]]
        write_png(folder, image_id, class_ids(label_map, info))
        confidence = cut_confidence(prediction, row, size)
        if confidence is not None:
            write_png(folder / "confidence", image_id, confidence_picture(confidence))
        return []

    def target(self, record):
        return super().target(record).by_class()

    def mask_picture(self, result):
        return class_ids(result.label_map, result.info)

"""Instance segmentation: objects with scores, whose masks may overlap."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from eomt_jax.evaluation.mask_ap import MaskAP, encode_mask_bits
from eomt_jax.evaluation.submission import image_number
from eomt_jax.postprocess.instance import InstancePrediction, instance_segmentation
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict.tiles import instances_of_tiles
from eomt_jax.task_registry import register_task
from eomt_jax.tasks.task import Rows, Task


@register_task
class Instance(Task):
    """Finds objects; submits them in COCO's format of results."""

    name = "instance"
    threshold = 0.5
    unused_settings = ("confidence",)
    overlapping = True
    measured_on = ("panoptic", "instance")
    class_columns = (("AP", "ap"), ("AP50", "ap50"), ("objects", "num_objects"))
    mean_columns = (
        *(("AP", "ap"), ("AP50", "ap50"), ("AP75", "ap75")),
        *(("small", "ap_small"), ("medium", "ap_medium"), ("large", "ap_large")),
    )
    rows_file = ("instances.json", "[", "]")

    def check_classes(self, info):
        if not info.is_thing.any():
            raise ValueError(
                f"none of the classes of {info.name} are things, so there are no "
                "instances to find: ask for panoptic or semantic segmentation"
            )

    def class_note(self, info):
        if info.task == "semantic":
            return (
                f"{info.name} is annotated for semantic segmentation, which doesn't "
                "tell objects apart: an instance may be all objects of its class. Train "
                "with masks of single objects to tell them apart"
            )
        return ""

    def post_process(
        self,
        mask_logits,
        class_logits,
        frame,
        info,
        *,
        num_instances=100,
        nms_iou=None,
        **_: Any,
    ):
        return instance_segmentation(
            mask_logits,
            class_logits,
            frame.restore_matrices(mask_logits),
            is_thing=info.is_thing,
            num_instances=num_instances,
            nms_iou=nms_iou,
        )

    def segmentation(self, prediction, row, size, *, min_score=0.0):
        height, width = size
        scores = np.asarray(prediction.scores[row])
        kept = np.flatnonzero(scores >= min_score)
        bits = np.asarray(prediction.mask_bits[row])[kept, :height]
        masks = np.unpackbits(bits, axis=-1, count=width, bitorder="little")
        queries = prediction.queries
        return Segmentation(
            labels=np.asarray(prediction.labels[row])[kept],
            # Not converted: many masks of a large photograph are a gigabyte.
            masks=masks.view(bool),
            scores=scores[kept],
            queries=None if queries is None else np.asarray(queries[row])[kept],
        )

    def tile_segmenter(self):
        return instances_of_tiles

    def metric(self, info):
        return MaskAP.with_classes(info.is_thing)

    def constant(self, label, inside):
        scores = jnp.ones((len(inside), 1))
        return InstancePrediction(
            mask_bits=jnp.packbits(inside[:, None], axis=-1, bitorder="little"),
            labels=jnp.full(scores.shape, label),
            scores=scores,
        )

    def submit(self, prediction, row, size, *, folder, image_id, info) -> Rows:
        """Returns a row for each instance, best first, without those that score 0."""
        scores = np.asarray(prediction.scores[row])
        order = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores > 0)]
        rles = encode_mask_bits(np.asarray(prediction.mask_bits[row])[order], size)
        return [
            {
                "image_id": image_number(image_id),
                "category_id": info.classes[prediction.labels[row][i]].id,
                "segmentation": {**rle, "counts": rle["counts"].decode("ascii")},
                "score": float(scores[i]),
            }
            for i, rle in zip(order, rles, strict=True)
        ]

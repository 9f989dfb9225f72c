"""Panoptic segmentation: each pixel belongs to one segment, a thing or stuff."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from eomt_jax.evaluation.panoptic_quality import PanopticQuality
from eomt_jax.evaluation.submission import image_number, write_png
from eomt_jax.postprocess.panoptic import PanopticPrediction, panoptic_segmentation
from eomt_jax.postprocess.segmentation import (
    Segmentation,
    cut_confidence,
    renumber,
    rgb_ids,
)
from eomt_jax.task_registry import register_task
from eomt_jax.tasks.task import Rows, Task


@register_task
class Panoptic(Task):
    """Finds segments of things and stuff; submits them in COCO's panoptic format."""

    name = "panoptic"
    threshold = 0.8
    unused_settings = ("max_instances", "nms_iou")
    measured_on = ("panoptic",)
    mean_columns = (("PQ", "pq"), ("SQ", "sq"), ("RQ", "rq"))
    class_columns = (
        *mean_columns,
        *(("found", "tp"), ("false", "fp"), ("missed", "fn")),
    )
    rows_file = ("panoptic.json", '{"annotations": [', "]}")

    def class_note(self, info):
        if info.task == "instance" and info.is_thing.all():
            return (
                f"all classes of {info.name} are things, so panoptic segments are "
                "instances that don't overlap, and the background stays empty. The "
                "instance task keeps objects that overlap"
            )
        if info.task == "semantic":
            return (
                f"{info.name} is annotated for semantic segmentation, which doesn't "
                "tell objects apart: a segment may be all objects of its class, and "
                "uncertain pixels stay empty. The semantic task gives each pixel a class"
            )
        return ""

    def post_process(
        self,
        mask_logits,
        class_logits,
        frame,
        info,
        *,
        score_threshold,
        overlap_threshold=0.8,
        confidence="",
        **_: Any,
    ):
        return panoptic_segmentation(
            mask_logits,
            class_logits,
            frame.restore_matrices(mask_logits),
            is_thing=info.is_thing,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
            confidence=confidence,
        )

    def segmentation(self, prediction, row, size, *, min_score=0.0):
        kept = np.flatnonzero(prediction.valid[row])
        return Segmentation(
            labels=np.asarray(prediction.labels[row])[kept],
            id_map=renumber(np.asarray(prediction.id_map[row]), kept, size),
            scores=np.asarray(prediction.scores[row])[kept],
            queries=kept,
            confidence=cut_confidence(prediction, row, size),
        )

    def tile_segmenter(self):
        raise ValueError(
            "panoptic segmentation can't be put together from tiles: a segment of "
            "stuff that a tile cuts is not the same one in the next; ask for the "
            "semantic or the instance task"
        )

    def metric(self, info):
        return PanopticQuality.with_classes(info.is_thing)

    def constant(self, label, inside):
        scores = jnp.ones((len(inside), 1))
        return PanopticPrediction(
            id_map=inside.astype(jnp.int32),
            labels=jnp.full(scores.shape, label),
            scores=scores,
            valid=jnp.ones(scores.shape, bool),
        )

    def submit(self, prediction, row, size, *, folder, image_id, info) -> Rows:
        """Writes the PNG of segment ids and returns the row that describes it."""
        found = self.segmentation(prediction, row, size)
        write_png(folder / "panoptic", image_id, rgb_ids(np.asarray(found.id_map)))
        segments = [
            {"id": i, "category_id": info.classes[label].id}
            for i, label in enumerate(found.labels, start=1)
        ]
        image: dict[str, Any] = {
            "image_id": image_number(image_id),
            "file_name": f"{image_id}.png",
        }
        return [{**image, "segments_info": segments}]

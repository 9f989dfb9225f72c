"""A task of a user in one file: the pixels that belong to any thing."""

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eomt_jax.evaluation.submission import write_png
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.task_registry import register_task
from eomt_jax.tasks.task import Task


@flax.struct.dataclass
class ForegroundPrediction:
    """The pixels of things, bool [B, Hc, Wc]."""

    mask: jax.Array


@flax.struct.dataclass
class ForegroundIoU(clu.metrics.Metric):
    """Metric: IoU of the pixels of things in prediction and target."""

    both: jax.Array
    either: jax.Array

    @classmethod
    def from_model_output(cls, *, prediction, targets, batch_valid, original_size, **_):
        height, width = prediction.mask.shape[1:]
        rows = jnp.arange(height) < original_size[:, :1]
        columns = jnp.arange(width) < original_size[:, 1:]
        counted = rows[:, :, None] & columns[:, None] & batch_valid[:, None, None]
        is_thing = jnp.pad(targets.labels < 2, ((0, 0), (1, 0)))
        wanted = jax.vmap(lambda thing, ids: thing[ids])(is_thing, targets.id_map)
        return cls(
            both=(prediction.mask & wanted & counted).sum(),
            either=((prediction.mask | wanted) & counted).sum(),
        )

    def merge(self, other):
        return jax.tree.map(np.add, self, other)

    def to_host(self):
        return jax.device_get(self)

    def compute(self):
        iou = 100 * float(self.both) / float(self.either)
        return {"all": {"iou": iou, "num_classes": 1}, "per_class": {}}


@register_task
class Foreground(Task):
    """One mask for each image; a submission has black and white PNGs and areas."""

    name = "foreground"
    threshold = 0.5
    measured_on = ("foreground", "panoptic")
    class_columns = ()
    mean_columns = (("IoU", "iou"),)
    rows_file = ("areas.json", "[", "]")

    def post_process(
        self, mask_logits, class_logits, frame, info, *, score_threshold, **_
    ):
        restore = frame.restore_matrices(mask_logits)
        mask_logits = mask_logits[jnp.arange(len(class_logits))]
        things = (jax.nn.softmax(class_logits)[:, :-1] * info.is_thing).sum(-1)
        scores = (things[:, None, None] * jax.nn.sigmoid(mask_logits)).max(0)
        return ForegroundPrediction(
            restore.rows @ scores @ restore.columns.T > score_threshold
        )

    def segmentation(self, prediction, row, size, *, min_score=0.0):
        mask = np.asarray(prediction.mask[row])[: size[0], : size[1]]
        return Segmentation(labels=np.zeros(1, np.int32), id_map=mask.astype(np.int32))

    def target(self, record):
        ids = 1 + np.flatnonzero(record.labels < 2)
        mask = np.isin(record.segment_map, ids)
        return Segmentation(labels=np.zeros(1, np.int32), id_map=mask.astype(np.int32))

    def metric(self, info):
        return ForegroundIoU

    def constant(self, label, inside):
        return ForegroundPrediction(inside)

    def submit(self, prediction, row, size, *, folder, image_id, info):
        mask = self.segmentation(prediction, row, size).id_map
        write_png(folder, image_id, (255 * mask).astype(np.uint8))
        return [{"image": image_id, "area": int(mask.sum())}]

    def draw(self, image, segmentation, info, **_):
        return image * (segmentation.id_map > 0)[..., None].astype(np.uint8)

    def mask_picture(self, result):
        return (255 * result.id_map).astype(np.uint8)

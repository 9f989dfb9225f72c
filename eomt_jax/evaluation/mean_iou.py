"""Mean intersection over union of label maps, counted on the device.

Legend: B batch, T target segments (padded), K classes, Hc Wc canvas.
"""

import functools
from typing import Any, ClassVar

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from eomt_jax.evaluation.panoptic_quality import joint_histogram, mean, with_attributes
from eomt_jax.postprocess.semantic import SemanticPrediction
from eomt_jax.types import Array, Targets

# clu reads annotations at run time: don't add `from __future__ import annotations`.


@flax.struct.dataclass
class MeanIoU(clu.metrics.Metric):
    """Metric: IoU = pixels shared / pixels of either, per class and on average.

    Void pixels of the targets are not counted. Make a metric for a number of classes
    with `with_classes`; its `empty()`, `from_model_output(...)` and `merge` run under
    jit, `compute()` on the host. Counts on the device are int32, exact up to 2³¹
    pixels; `to_host()` returns them as int64.

    Attributes:
      confusion: pixels by target class (rows) and predicted class (columns).
    """

    confusion: Int[Array, "K K"]

    num_classes: ClassVar[int] = 0

    @classmethod
    def with_classes(cls, num_classes: int) -> type["MeanIoU"]:
        """Returns the metric for a number of classes."""
        return with_attributes(cls, num_classes=num_classes)

    @classmethod
    def empty(cls) -> "MeanIoU":
        return cls(confusion=jnp.zeros((cls.num_classes,) * 2, jnp.int32))

    @classmethod
    def from_model_output(
        cls,
        *,
        prediction: SemanticPrediction,
        targets: Targets,
        batch_valid: Bool[Array, " B"],
        original_size: Int[Array, "B 2"],
        **_: Any,
    ) -> "MeanIoU":
        """Counts one batch.

        Args:
          prediction: label maps on the canvas.
          targets: id maps on the same canvas; 0 within the photograph is void. Pixels
            of a crowd count for its class like those of any other segment.
          batch_valid: False for rows that fill up the batch; they add nothing.
          original_size: (height, width); canvas pixels past it are ignored.
        """
        num_classes, num_targets = cls.num_classes, targets.labels.shape[1]
        id_map: Any = targets.id_map
        joint = jax.vmap(
            functools.partial(
                joint_histogram, num_predictions=num_classes, num_targets=num_targets
            )
        )(prediction.label_map + 1, id_map, original_size)
        counted = targets.valid & batch_valid[:, None]
        per_target = jnp.where(counted[:, None], joint[:, 1:, 1:], 0)
        confusion = jnp.zeros((num_classes, num_classes), jnp.int32)
        per_target = per_target.transpose(0, 2, 1).reshape(-1, num_classes)
        return cls(confusion=confusion.at[targets.labels.reshape(-1)].add(per_target))

    # clu's own metrics narrow both types likewise.
    def merge(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, other: "MeanIoU"
    ) -> "MeanIoU":
        return type(self)(confusion=self.confusion + other.confusion)

    def to_host(self) -> "MeanIoU":
        """Returns the counts as NumPy int64."""
        return type(self)(confusion=np.asarray(self.confusion, np.int64))

    def compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> dict[str, Any]:
        """Returns IoU and accuracy in percent.

        Returns:
          Three entries:

          - all: {miou, mean_accuracy, pixel_accuracy, num_classes}; miou is the mean
            over the classes that occur in targets or predictions, mean_accuracy over
            those in targets; NaN where there are none.
          - per_class: {iou, accuracy, pixels}, each [K]; accuracy is the share of the
            class's pixels that are predicted as it; NaN where there are none. pixels
            are those of the targets.
          - confusion: see Attributes.
        """
        confusion = np.asarray(self.confusion, np.int64)
        pixels, hits = confusion.sum(1), confusion.diagonal()
        iou = _percent(hits, pixels + confusion.sum(0) - hits)
        accuracy = _percent(hits, pixels)
        occurs = ~np.isnan(iou)
        return {
            "all": {
                "miou": mean(iou[occurs]),
                "mean_accuracy": mean(accuracy[pixels > 0]),
                "pixel_accuracy": float(_percent(hits.sum(), pixels.sum())),
                "num_classes": int(occurs.sum()),
            },
            "per_class": {"iou": iou, "accuracy": accuracy, "pixels": pixels},
            "confusion": confusion,
        }


def _percent(part: Any, whole: Any) -> np.ndarray:
    return np.where(whole > 0, 100 * part / np.maximum(whole, 1), np.nan)

"""Confidence measured: does it tell right pixels from wrong ones, and alien ones?

The metrics are those of BRAVO (valeoai/bravo_challenge, bravo_toolkit/eval). Confidences
are counted in 65,536 levels, whose numbers of pixels are whole and add up. So the metrics
of a split are exact and the same for all sizes of batches and numbers of processes, and
memory doesn't grow with the split.

Legend: B batch, K classes, L levels, Hc Wc canvas.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from eomt_jax.evaluation.level_curves import (
    Reliability,
    average_precision,
    curves,
    harmonic_mean,
)
from eomt_jax.evaluation.mean_iou import MeanIoU
from eomt_jax.evaluation.panoptic_quality import with_attributes
from eomt_jax.postprocess.confidence import NUM_LEVELS, confidence_levels
from eomt_jax.postprocess.semantic import SemanticPrediction
from eomt_jax.types import Array, Targets

# clu reads annotations at run time: don't add `from __future__ import annotations`.

INVALID = "invalid"
"""Name of the class, the last of a dataset, whose pixels show no class of the network."""

SEMANTIC = ("miou", "ece", "auroc", "fpr95", "aupr_success", "aupr_error")
"""Metrics of the classes of pixels and of their confidence, without invalid pixels."""

ALARM = ("auroc_invalid", "auprc_invalid", "fpr95_invalid")
"""Metrics of low confidence as an alarm for invalid pixels."""

_SMALLER_IS_BETTER = ("ece", "fpr95", "fpr95_invalid")


@flax.struct.dataclass
class OutOfDistribution(clu.metrics.Metric):
    """Metric: how good classes and confidences are, and confidence as an alarm.

    Pixels are void, valid, with a class of the network, or invalid: they show what is
    none of the network's classes, or what nobody could see. Make a metric for a number
    of classes with `with_classes`; its `empty()`, `from_model_output(...)` and `merge`
    run under jit, `compute()` on the host. Counts on the device are int32, exact up to
    2³¹ pixels; `to_host()` returns them as int64.

    Attributes:
      confusion: valid pixels by target class (rows) and predicted class.
      right: valid pixels whose class is right, by level of confidence.
      wrong: valid pixels whose class is wrong, by level.
      invalid: invalid pixels, by level.
    """

    confusion: Int[Array, "K K"]
    right: Int[Array, " L"]
    wrong: Int[Array, " L"]
    invalid: Int[Array, " L"]

    num_classes: ClassVar[int] = 0

    @classmethod
    def with_classes(cls, num_classes: int) -> type["OutOfDistribution"]:
        """Returns the metric for a number of classes that the network predicts."""
        return with_attributes(cls, num_classes=num_classes)

    @classmethod
    def empty(cls) -> "OutOfDistribution":
        levels = jnp.zeros(NUM_LEVELS, jnp.int32)
        confusion = jnp.zeros((cls.num_classes,) * 2, jnp.int32)
        return cls(confusion=confusion, right=levels, wrong=levels, invalid=levels)

    @classmethod
    def from_model_output(
        cls,
        *,
        prediction: SemanticPrediction,
        targets: Targets,
        batch_valid: Bool[Array, " B"],
        original_size: Int[Array, "B 2"],
        **_: Any,
    ) -> "OutOfDistribution":
        """Counts one batch.

        Args:
          prediction: label maps with confidences on the canvas.
          targets: id maps on the same canvas; 0 within the photograph is void. Segments
            of a class past the network's, num_classes and more, are invalid pixels.
          batch_valid: False for rows that fill up the batch; they add nothing.
          original_size: (height, width); canvas pixels past it are ignored.
        """
        id_map: Any = targets.id_map
        _, height, width = id_map.shape
        inside = (jnp.arange(height)[:, None] < original_size[:, :1, None]) & (
            jnp.arange(width) < original_size[:, 1:, None]
        )
        labels = jnp.where(targets.valid, targets.labels, -1)
        labels = jnp.pad(labels, ((0, 0), (1, 0)), constant_values=-1)
        rows = jnp.arange(len(labels))[:, None, None]
        target = labels[rows, id_map.astype(jnp.int32)]
        target = jnp.where(inside & batch_valid[:, None, None], target, -1)
        confidence: Any = prediction.confidence
        return cls.from_maps(
            prediction.label_map,
            confidence_levels(confidence),
            jnp.minimum(target, cls.num_classes),
        )

    @classmethod
    def from_maps(
        cls,
        label_map: Int[Array, "*pixels"],
        levels: Int[Array, "*pixels"],
        target: Int[Array, "*pixels"],
        *,
        sampled: Bool[Array, "*pixels"] | bool = True,
    ) -> "OutOfDistribution":
        """Counts pixels of any number of images.

        Args:
          label_map: predicted classes, 0 to K - 1 where the target isn't void.
          levels: see confidence_levels; BRAVO's submissions have them as 16-bit PNG.
          target: class, K for an invalid pixel and -1 for void.
          sampled: False for pixels that count for the mIoU alone. BRAVO looks at the
            confidences of at most 100,000 pixels of an image.
        """
        num_classes = cls.num_classes
        is_valid = (target >= 0) & (target < num_classes)
        pair = target * num_classes + label_map
        confusion = _count(pair, is_valid, num_classes**2)
        kind = jnp.where(is_valid, (label_map != target).astype(jnp.int32), 2)
        counts = _count(
            kind * NUM_LEVELS + levels, (target >= 0) & sampled, 3 * NUM_LEVELS
        )
        right, wrong, invalid = counts.reshape(3, NUM_LEVELS)
        confusion = confusion.reshape(num_classes, num_classes)
        return cls(confusion=confusion, right=right, wrong=wrong, invalid=invalid)

    # clu's own metrics narrow both types likewise.
    def merge(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, other: "OutOfDistribution"
    ) -> "OutOfDistribution":
        return jax.tree.map(lambda a, b: a + b, self, other)

    def to_host(self) -> "OutOfDistribution":
        """Returns the counts as NumPy int64."""
        return jax.tree.map(lambda x: np.asarray(x, np.int64), jax.device_get(self))

    def compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> dict[str, float]:
        """Returns the metrics that have a value, in percent.

        Returns:
          By name:

          - miou: mean over the classes that occur in targets or predictions.
          - ece: expected calibration error in 15 bins of equal width.
          - auroc, fpr95, aupr_success: how well a high confidence tells pixels of the
            right class from others; fpr95 is the share of wrong pixels that pass where
            95 % of the right ones do.
          - aupr_error: how well a low confidence finds pixels of a wrong class.
          - auroc_invalid, auprc_invalid, fpr95_invalid: how well a low confidence finds
            invalid pixels among all that aren't void.

          A curve has no value without pixels of both kinds, an area under precision and
          recall none without pixels to be found.
        """
        host: Any = self.to_host()
        iou = MeanIoU.with_classes(self.num_classes)(confusion=host.confusion)
        valid = host.right + host.wrong
        low_first = slice(None, None, -1)
        found = {
            "miou": iou.compute()["all"]["miou"] / 100,
            "ece": Reliability.of_levels(host.right, host.wrong).calibration_error,
            **curves(host.right, host.wrong, "", aupr="aupr_success"),
            "aupr_error": average_precision(
                host.wrong[low_first], host.right[low_first]
            ),
            **curves(
                host.invalid[low_first],
                valid[low_first],
                "_invalid",
                aupr="auprc_invalid",
            ),
        }
        return {
            name: 100 * float(found[name])
            for name in (*SEMANTIC, *ALARM)
            if found[name] is not None and np.isfinite(found[name])
        }


@flax.struct.dataclass
class MeanIoUWithConfidence(OutOfDistribution):
    """Metric: mean IoU, with the metrics of confidence beside it."""

    def compute(self) -> dict[str, Any]:
        """Returns what MeanIoU computes, and as confidence all but the mIoU.

        It has a reliability too: pixels, right pixels and sums of confidence by bin.
        """
        found = super().compute()
        found.pop("miou", None)
        iou = MeanIoU.with_classes(self.num_classes)(confusion=self.confusion)
        host: Any = self.to_host()
        bins = Reliability.of_levels(host.right, host.wrong)
        reliability = {name: x.tolist() for name, x in bins._asdict().items()}
        return {**iou.compute(), "confidence": found, "reliability": reliability}


def summarize(subsets: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Returns harmonic means over the metrics of several subsets, in percent.

    What is better when it is smaller counts as 100 less itself. A metric that a subset
    lacks counts nowhere: leave out what isn't to count.

    Args:
      subsets: metrics as `OutOfDistribution.compute` returns them, by subset.

    Returns:
      subsets: the mean of each subset's metrics.
      semantic: the mean of all subsets' metrics of SEMANTIC.
      invalid: that of ALARM.
      index: the mean of these two.

      What has no value is left out.
    """

    def mean(names: Iterable[str], of: Iterable[Mapping[str, float]]) -> float | None:
        wanted = set(names)
        values = [
            100 - value if name in _SMALLER_IS_BETTER else value
            for metrics in of
            for name, value in metrics.items()
            if name in wanted
        ]
        return harmonic_mean(values)

    means = {
        "semantic": mean(SEMANTIC, subsets.values()),
        "invalid": mean(ALARM, subsets.values()),
    }
    both = [value for value in means.values() if value is not None]
    means["index"] = harmonic_mean(both) if len(both) == 2 else None
    each = {
        name: mean((*SEMANTIC, *ALARM), [metrics]) for name, metrics in subsets.items()
    }
    return {
        "subsets": {name: value for name, value in each.items() if value is not None},
        **{name: value for name, value in means.items() if value is not None},
    }


def _count(
    numbers: Int[Array, "*pixels"], counted: Bool[Array, "*pixels"], length: int
) -> Int[Array, " length"]:
    """Returns how often each number up to `length` comes where it is counted."""
    numbers = jnp.where(counted, numbers, length).reshape(-1)
    return jnp.zeros(length, jnp.int32).at[numbers].add(1, mode="drop")

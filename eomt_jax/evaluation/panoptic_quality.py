"""Panoptic quality with the rules of COCO's panopticapi, counted on the device.

Legend: B batch, Q predicted segments (padded), T target segments (padded), K classes,
Hc Wc canvas.
"""

import functools
from typing import Any, ClassVar

import clu.metrics
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from eomt_jax.postprocess.panoptic import PanopticPrediction
from eomt_jax.types import Array, Targets

# clu reads annotations at run time: don't add `from __future__ import annotations`.


@flax.struct.dataclass
class PanopticQuality(clu.metrics.Metric):
    """Metric: PQ = Σ IoU of matches / (tp + fp / 2 + fn / 2), per class and on average.

    Make a metric for a class table with `with_classes`; its `empty()`,
    `from_model_output(...)` and `merge` run under jit, `compute()` on the host.
    `to_host()` returns the metric in float64, in which sums over a whole dataset are
    exact. The float32 sums of one batch are exact too, so they don't depend on the
    order in which devices and processes are added up: an IoU above ½ is a multiple of
    2⁻²⁴, and it is summed in two parts, each exact up to 4,096 matches of a class.

    Attributes:
      iou: sum of the IoU of matched segments, per class, each rounded down to a
        multiple of 2⁻¹²; after `to_host` not rounded.
      iou_rest: sum of the remainders of that rounding; 0 after `to_host`.
      tp: number of matched segments.
      fp: number of predicted segments that match nothing.
      fn: number of target segments that nothing matches.
    """

    iou: Float[Array, " K"]
    iou_rest: Float[Array, " K"]
    tp: Float[Array, " K"]
    fp: Float[Array, " K"]
    fn: Float[Array, " K"]

    is_thing: ClassVar[tuple[bool, ...]] = ()

    @classmethod
    def with_classes(cls, is_thing: Any) -> type["PanopticQuality"]:
        """Returns the metric for a class table: is_thing per class, in label order."""
        return with_attributes(cls, is_thing=tuple(map(bool, is_thing)))

    @classmethod
    def empty(cls) -> "PanopticQuality":
        zeros = jnp.zeros(len(cls.is_thing), jnp.float32)
        return cls(iou=zeros, iou_rest=zeros, tp=zeros, fp=zeros, fn=zeros)

    @classmethod
    def from_model_output(
        cls,
        *,
        prediction: PanopticPrediction,
        targets: Targets,
        batch_valid: Bool[Array, " B"],
        original_size: Int[Array, "B 2"],
        **_: Any,
    ) -> "PanopticQuality":
        """Counts one batch.

        Args:
          prediction: id maps on the canvas.
          targets: id maps on the same canvas; 0 within the photograph is void.
          batch_valid: False for rows that fill up the batch; they add nothing.
          original_size: (height, width); canvas pixels past it are ignored.
        """
        id_map: Any = targets.id_map
        joint = jax.vmap(
            functools.partial(
                joint_histogram,
                num_predictions=prediction.labels.shape[1],
                num_targets=targets.labels.shape[1],
            )
        )(prediction.id_map, id_map, original_size)
        counts = jax.vmap(
            functools.partial(image_counts, num_classes=len(cls.is_thing))
        )
        per_image = counts(
            joint,
            prediction.labels,
            prediction.valid,
            targets.labels,
            targets.valid & ~targets.is_crowd,
            targets.valid & targets.is_crowd,
        )
        total = jnp.where(batch_valid[:, None, None], per_image, 0.0).sum(0)
        return cls(*total)

    # clu's own metrics narrow both types likewise.
    def merge(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, other: "PanopticQuality"
    ) -> "PanopticQuality":
        return jax.tree.map(lambda a, b: a + b, self, other)

    def to_host(self) -> "PanopticQuality":
        """Returns the metric as NumPy float64."""
        host = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(self))
        rest = host.iou_rest
        return host.replace(iou=host.iou + rest, iou_rest=np.zeros_like(rest))

    def compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> dict[str, Any]:
        """Returns PQ, SQ and RQ in percent, as in published tables.

        Returns:
          all, things, stuff: {pq, sq, rq, num_classes}, means over the classes that
            occur (tp + fp + fn > 0), NaN where none does.
          per_class: {pq, sq, rq, tp, fp, fn}, each [K]; pq, sq, rq are NaN for a class
            that doesn't occur.
        """
        host: Any = self.to_host()
        iou, tp, fp, fn = host.iou, host.tp, host.fp, host.fn
        occurs = tp + fp + fn > 0
        total = np.where(occurs, tp + fp / 2 + fn / 2, np.nan)
        quality = {
            "pq": 100 * iou / total,
            "sq": np.where(occurs, 100 * iou / np.maximum(tp, 1), np.nan),
            "rq": 100 * tp / total,
        }
        is_thing = np.array(self.is_thing, bool)
        groups = {
            "all": occurs,
            "things": occurs & is_thing,
            "stuff": occurs & ~is_thing,
        }
        means = {
            group: {
                **{name: mean(values[member]) for name, values in quality.items()},
                "num_classes": int(member.sum()),
            }
            for group, member in groups.items()
        }
        counts = {
            name: x.astype(np.int64) for name, x in (("tp", tp), ("fp", fp), ("fn", fn))
        }
        return {**means, "per_class": {**quality, **counts}}


@functools.lru_cache
def with_attributes(metric: type, **attributes: Any) -> Any:
    """Returns the metric's class with these attributes.

    It is the same class for the same attributes, so that metrics merge and jit doesn't
    trace again.
    """
    return flax.struct.dataclass(type(metric.__name__, (metric,), attributes))


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def joint_histogram(
    prediction: Integer[Array, "Hc Wc"],
    target: Integer[Array, "Hc Wc"],
    original_size: Int[Array, " 2"],
    *,
    num_predictions: int,
    num_targets: int,
) -> Int[Array, "Q1 T1"]:
    """Returns how many pixels each prediction and target share.

    Row 0 is no prediction, column 0 is void. Counts are exact, in int32; pixels past
    original_size are not counted.
    """
    height, width = target.shape
    inside = (jnp.arange(height) < original_size[0])[:, None] & (
        jnp.arange(width) < original_size[1]
    )
    size = (num_predictions + 1) * (num_targets + 1)
    pair = prediction.astype(jnp.int32) * (num_targets + 1) + target.astype(jnp.int32)
    pair = jnp.where(inside, pair, size).reshape(-1)
    counts = jnp.zeros(size, jnp.int32).at[pair].add(1, mode="drop")
    return counts.reshape(num_predictions + 1, num_targets + 1)


def image_counts(
    joint: Int[Array, "Q1 T1"],
    labels: Int[Array, " Q"],
    valid: Bool[Array, " Q"],
    target_labels: Int[Array, " T"],
    target_valid: Bool[Array, " T"],
    target_crowd: Bool[Array, " T"],
    *,
    num_classes: int,
) -> Float[Array, "5 K"]:
    """Returns the fields of PanopticQuality for one image, per class.

    A pair matches if the classes agree and the IoU is above ½, so a segment is in at
    most one pair. The union leaves out the prediction's void pixels. An unmatched
    prediction with more than half of its pixels on void, or on the crowd of its own
    class, is no false positive. Like panopticapi, this looks at one crowd of each
    class, the last.

    Args:
      joint: see joint_histogram.
      labels: class of each prediction.
      valid: False in padded rows.
      target_labels: class of each target.
      target_valid: True for targets that are neither padding nor crowds.
      target_crowd: True for crowds; they never match.
      num_classes: K.
    """
    num_targets = len(target_labels)
    intersection, void = joint[1:, 1:], joint[1:, :1]
    area, target_area = joint[1:].sum(1, keepdims=True), joint[:, 1:].sum(0)
    valid = valid & (area[:, 0] > 0)
    same_class = valid[:, None] & (labels[:, None] == target_labels)
    union = area + target_area - intersection - void
    match = same_class & target_valid & (2 * intersection > union)
    iou = jnp.where(match, intersection / jnp.maximum(union, 1), 0.0).sum(0)

    same_crowd = same_class & target_crowd
    last_crowd = num_targets - 1 - jnp.argmax(same_crowd[:, ::-1], axis=1)
    on_crowd = jnp.take_along_axis(intersection, last_crowd[:, None], axis=1)
    ignored = void + jnp.where(same_crowd.any(1, keepdims=True), on_crowd, 0)
    false_positive = valid & ~match.any(1) & (2 * ignored <= area)[:, 0]

    matched = match.any(0)
    rounded = jnp.floor(iou * 4096) / 4096
    per_target = jnp.stack([rounded, iou - rounded, matched, target_valid & ~matched])
    counts = jnp.zeros((5, num_classes), jnp.float32)
    rows = jnp.array([0, 1, 2, 4])[:, None]
    counts = counts.at[rows, target_labels].add(per_target.astype(jnp.float32))
    return counts.at[3, labels].add(false_positive.astype(jnp.float32))

"""The training loss: matches queries to targets, samples points, and sums the parts.

Source: arXiv 2503.19108, with the loss of Mask2Former, arXiv 2112.01527.
Legend: M predictions, B batch, Q queries, T targets (padded), K classes, P points,
h w mask logits.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from eomt_jax.losses import mask_losses
from eomt_jax.losses.matched_losses import matched_losses
from eomt_jax.losses.matcher import MATCHERS
from eomt_jax.losses.options import CriterionOptions
from eomt_jax.ops import points as point_ops
from eomt_jax.ops import target_masks
from eomt_jax.types import Outputs, Targets

BATCH_AXES = ("data", "fsdp")


@flax.struct.dataclass
class LossTerms:
    """The loss, and its parts for each prediction before they are weighted.

    Attributes:
      total: what is minimised.
      mask: sigmoid cross-entropy of the masks, for logs; it carries no gradient.
      dice: dice loss of the masks, for logs; it carries no gradient.
      classification: cross-entropy of the classes.
    """

    total: Float[Array, ""]
    mask: Float[Array, " M"]
    dice: Float[Array, " M"]
    classification: Float[Array, " M"]


@flax.struct.dataclass
class Normalizers:
    """Divisors of the sums over a batch.

    They depend on the targets and not on the matching, so that parts of a batch, each
    computed by itself, add up to the loss of the whole.

    Attributes:
      num_pairs: number of pairs of a query and a target, at least 1.
      class_weight: sum of the weights of all queries in the class loss.
    """

    num_pairs: Float[Array, ""]
    class_weight: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Criterion(CriterionOptions):
    """Set prediction loss over all predictions of the network.

    With `ignore_void` the targets must mark void points, see types.Targets.
    """

    def __post_init__(self):
        if self.matcher not in MATCHERS:
            raise ValueError(
                f"Unknown matcher {self.matcher!r}; there are {', '.join(MATCHERS)}."
            )

    def __call__(
        self,
        outputs: Outputs,
        targets: Targets,
        *,
        rng: Key[Array, ""],
        mesh: Mesh | None = None,
        rows: Int[Array, " B"] | None = None,
        normalizers: Normalizers | None = None,
    ) -> LossTerms:
        """Computes the loss of a (global) batch, or what a part of one adds to it.

        Args:
          outputs: M predictions.
          targets: padding and crowds are ignored. An image may have no target: all its
            queries learn "no object".
          rng: decides the points; an image's points depend on its row in the batch and
            not on how the batch is sharded.
          mesh: the batch is sharded over its axes data and fsdp, and copied over the
            others. None runs on one device.
          rows: which rows of the global batch these are; by default all of them.
          normalizers: those of the global batch; by default those of `targets`.
        """
        num_queries = outputs.class_logits[0].shape[1]
        if rows is None:
            rows = jnp.arange(targets.labels.shape[0])
        if normalizers is None:
            normalizers = self.normalizers(targets, num_queries=num_queries)
        rngs = jax.vmap(lambda row: jax.random.fold_in(rng, row))(rows)
        local = self._match_and_sum
        if mesh is not None:
            split = P(BATCH_AXES)
            copies = tuple(
                axis
                for axis, size in mesh.shape.items()
                if size > 1 and axis not in BATCH_AXES
            )
            local = jax.shard_map(
                functools.partial(local, copies=copies),
                mesh=mesh,
                in_specs=(split, split, split),
                out_specs=P(None, BATCH_AXES),
                check_vma=False,
            )
        weighted, mask, dice, query_of_target = local(outputs, targets, rngs)

        num_pairs = normalizers.num_pairs
        labels = jnp.asarray(targets.labels)
        classification = jnp.stack(
            [
                self.class_loss(jnp.asarray(logits), matched, labels)
                for logits, matched in zip(outputs.class_logits, query_of_target)
            ]
        )
        classification = classification / normalizers.class_weight
        total = (weighted.sum(1) / num_pairs + self.class_weight * classification).sum()
        # A matcher that failed returns a query that doesn't exist.
        failed = (query_of_target >= num_queries).any()
        total = jnp.where(failed, jnp.nan, total)
        return LossTerms(
            total=total,
            mask=mask.sum(1) / num_pairs,
            dice=dice.sum(1) / num_pairs,
            classification=classification,
        )

    def normalizers(self, targets: Targets, *, num_queries: int) -> Normalizers:
        """Returns the divisors for a global batch, given all of its targets."""
        valid = jnp.asarray(targets.valid) & ~jnp.asarray(targets.is_crowd)
        num_pairs = jnp.minimum(valid.sum(-1), num_queries).sum().astype(jnp.float32)
        num_unmatched = len(valid) * num_queries - num_pairs
        return Normalizers(
            num_pairs=jnp.maximum(num_pairs, 1),
            class_weight=num_pairs + self.no_object_weight * num_unmatched,
        )

    def class_loss(
        self,
        class_logits: Float[Array, "B Q K1"],
        query_of_target: Int[Array, "B T"],
        labels: Int[Array, "B T"],
    ) -> Float[Array, ""]:
        """Returns the weighted sum of all queries' cross-entropy."""
        batch, num_queries, num_outputs = class_logits.shape
        no_object = num_outputs - 1
        # An index of −1 would count from the end, so unmatched targets get one past
        # the end, which mode="drop" leaves out.
        query = jnp.where(query_of_target < 0, num_queries, query_of_target)
        classes = jnp.full((batch, num_queries), no_object)
        classes = classes.at[jnp.arange(batch)[:, None], query].set(labels, mode="drop")
        log_probs = jax.nn.log_softmax(class_logits)
        losses = -jnp.take_along_axis(log_probs, classes[..., None], axis=-1)[..., 0]
        weights = jnp.where(classes == no_object, self.no_object_weight, 1.0)
        return (losses * weights).sum()

    def matching_costs(
        self,
        mask_logits: Float[Array, "Q h w"],
        class_logits: Float[Array, "Q K1"],
        target_values: Float[Array, "P T"],
        labels: Int[Array, " T"],
        points: Float[Array, "P 2"],
        weights: Float[Array, " P"] | None = None,
    ) -> Float[Array, "Q T"]:
        """Returns the cost of matching each query with each target of one image."""
        logits = point_ops.sample_shared(mask_logits, points)
        bce, dice = mask_losses.pairwise_costs(logits, target_values, weights)
        probs = jax.nn.softmax(class_logits)[:, labels]
        return (
            self.mask_weight * bce + self.dice_weight * dice - self.class_weight * probs
        )

    def _match_and_sum(
        self,
        outputs: Outputs,
        targets: Targets,
        rngs: Key[Array, " B"],
        *,
        copies: tuple[str, ...] = (),
    ) -> tuple[
        Float[Array, "M B"],
        Float[Array, "M B"],
        Float[Array, "M B"],
        Int[Array, "M B T"],
    ]:
        """Returns each image's weighted, mask and dice losses, and the matching.

        Args:
          outputs, targets: those of the shard.
          rngs: one key for each of its images.
          copies: mesh axes along which devices compute the same.
        """
        valid = jnp.asarray(targets.valid) & ~jnp.asarray(targets.is_crowd)
        match_rngs, loss_rngs = _fold_in(rngs, 0), _fold_in(rngs, 1)
        query_of_target = self._match(outputs, targets, valid, match_rngs)
        if copies:
            # Another process may choose other kernels, and a difference in the last
            # digit of a cost can change the matching: all take the first device's.
            first = jax.lax.axis_index(copies) == 0
            query_of_target = jnp.where(first, query_of_target, 0)
            query_of_target = jax.lax.psum(query_of_target, copies)
        sums: Any = matched_losses(
            self, outputs.mask_logits, query_of_target, targets, loss_rngs
        )
        return *sums, query_of_target

    def _match(
        self,
        outputs: Outputs,
        targets: Targets,
        valid: Bool[Array, "B T"],
        rngs: Key[Array, " B"],
    ) -> Int[Array, "M B T"]:
        labels = jnp.asarray(targets.labels)
        draw = jax.vmap(lambda rng: mask_losses.uniform_points(rng, self.num_points))
        costs = []
        predictions: Any = zip(outputs.mask_logits, outputs.class_logits)
        for m, (masks, classes) in enumerate(predictions):
            points = draw(_fold_in(rngs, m))
            values = target_masks.sample_all(targets, points)
            inputs = [masks, classes, values, labels, points]
            if self.ignore_void:
                image = jnp.arange(len(points))
                known = target_masks.sample_known(targets, points, image=image)
                inputs.append(mask_losses.known_weights(jnp.ones_like(known), known))
            costs.append(jax.vmap(self.matching_costs)(*inputs))
        costs = jax.lax.stop_gradient(jnp.stack(costs))
        return MATCHERS[self.matcher](costs, valid)


def _fold_in(rngs: Key[Array, " B"], data: int) -> Key[Array, " B"]:
    return jax.vmap(lambda rng: jax.random.fold_in(rng, data))(rngs)

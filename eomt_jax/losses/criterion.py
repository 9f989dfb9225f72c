"""The training loss: match, sample points, sum the parts.

Source: arXiv 2503.19108 (EoMT) with the loss of Mask2Former, arXiv 2112.01527.
Legend: M predictions, B batch, Q queries, T targets (padded), K classes, P points,
h w mask logits.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from eomt_jax.losses import mask_losses
from eomt_jax.losses.matcher import MATCHERS
from eomt_jax.ops import points as point_ops
from eomt_jax.ops import target_masks
from eomt_jax.types import Outputs, Targets

BATCH_AXES = ("data", "fsdp")


@flax.struct.dataclass
class LossTerms:
    """The loss and its parts before their weights, one of each a prediction.

    Attributes:
      total: what is minimised.
      mask: sigmoid cross-entropy of the masks; to read, it carries no gradient.
      dice: dice loss of the masks; likewise.
      classification: cross-entropy of the classes.
    """

    total: Float[Array, ""]
    mask: Float[Array, " M"]
    dice: Float[Array, " M"]
    classification: Float[Array, " M"]


@dataclasses.dataclass(frozen=True)
class Criterion:
    """Set prediction loss over all predictions of the network.

    Attributes:
      num_points: P, points a mask for the loss, and points an image for matching.
      oversample_ratio, importance_ratio: see mask_losses.uncertain_points.
      mask_weight, dice_weight, class_weight: of the parts, in loss and matching alike.
      no_object_weight: of queries without a target in the class loss.
      matcher: "scipy" (host callback) or "device" (optax).
    """

    num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    class_weight: float = 2.0
    no_object_weight: float = 0.1
    matcher: str = "scipy"

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
    ) -> LossTerms:
        """Computes the loss of a (global) batch.

        Args:
          outputs: M predictions.
          targets: padding and crowds count for nothing. An image without a target is
            legal: all its queries learn "no object".
          rng: decides the points; an image's points depend on its row in the batch and
            not on how the batch is sharded.
          mesh: where the batch is sharded over the axes data and fsdp. None runs on
            one device.
        """
        batch = targets.labels.shape[0]
        rngs = jax.vmap(lambda row: jax.random.fold_in(rng, row))(jnp.arange(batch))
        local = self._match_and_sum
        if mesh is not None:
            rows = P(BATCH_AXES)
            local = jax.shard_map(
                local,
                mesh=mesh,
                in_specs=(rows, rows, rows),
                out_specs=P(None, BATCH_AXES),
                check_vma=False,
            )
        weighted, mask, dice, query_of_target = local(outputs, targets, rngs)

        num_pairs = (query_of_target >= 0).sum((1, 2))
        num_pairs = jnp.maximum(num_pairs, 1).astype(jnp.float32)
        classification = jnp.stack(
            [
                self.class_loss(logits, matched, targets.labels)
                for logits, matched in zip(outputs.class_logits, query_of_target)
            ]
        )
        total = (weighted.sum(1) / num_pairs + self.class_weight * classification).sum()
        # A matcher that failed says so with a query that doesn't exist.
        num_queries = outputs.class_logits[0].shape[1]
        failed = (query_of_target >= num_queries).any()
        total = jnp.where(failed, jnp.nan, total)
        return LossTerms(
            total=total,
            mask=mask.sum(1) / num_pairs,
            dice=dice.sum(1) / num_pairs,
            classification=classification,
        )

    def class_loss(
        self,
        class_logits: Float[Array, "B Q K1"],
        query_of_target: Int[Array, "B T"],
        labels: Int[Array, "B T"],
    ) -> Float[Array, ""]:
        """Cross-entropy of all queries, divided by the sum of their weights."""
        batch, num_queries, num_outputs = class_logits.shape
        no_object = num_outputs - 1
        # −1 would count from the end: unmatched targets are sent past it and dropped.
        query = jnp.where(query_of_target < 0, num_queries, query_of_target)
        classes = jnp.full((batch, num_queries), no_object)
        classes = classes.at[jnp.arange(batch)[:, None], query].set(labels, mode="drop")
        log_probs = jax.nn.log_softmax(class_logits)
        losses = -jnp.take_along_axis(log_probs, classes[..., None], axis=-1)[..., 0]
        weights = jnp.where(classes == no_object, self.no_object_weight, 1.0)
        return (losses * weights).sum() / weights.sum()

    def matching_costs(
        self,
        mask_logits: Float[Array, "Q h w"],
        class_logits: Float[Array, "Q K1"],
        target_values: Float[Array, "P T"],
        labels: Int[Array, " T"],
        points: Float[Array, "P 2"],
    ) -> Float[Array, "Q T"]:
        """What it costs each query to take each target of one image."""
        logits = point_ops.sample_shared(mask_logits, points)
        bce, dice = mask_losses.pairwise_costs(logits, target_values)
        probs = jax.nn.softmax(class_logits)[:, labels]
        return (
            self.mask_weight * bce + self.dice_weight * dice - self.class_weight * probs
        )

    def _match_and_sum(
        self, outputs: Outputs, targets: Targets, rngs: Key[Array, " B"]
    ) -> tuple[
        Float[Array, "M B"],
        Float[Array, "M B"],
        Float[Array, "M B"],
        Int[Array, "M B T"],
    ]:
        """Per image, summed over its pairs: weighted, mask, dice; and the matching."""
        valid = targets.valid & ~targets.is_crowd
        match_rngs, loss_rngs = _fold_in(rngs, 0), _fold_in(rngs, 1)
        query_of_target = self._match(outputs, targets, valid, match_rngs)
        weighted, mask, dice = _with_early_gradient(self._pair_losses)(
            outputs.mask_logits, query_of_target, targets, valid, loss_rngs
        )
        return weighted, mask, dice, query_of_target

    def _match(
        self,
        outputs: Outputs,
        targets: Targets,
        valid: Bool[Array, "B T"],
        rngs: Key[Array, " B"],
    ) -> Int[Array, "M B T"]:
        num_targets = targets.labels.shape[1]

        def image_costs(mask_logits, class_logits, id_map, labels, rng):
            points = mask_losses.uniform_points(rng, self.num_points)
            values = target_masks.sample_all(id_map, points, num_targets=num_targets)
            return self.matching_costs(
                mask_logits, class_logits, values, labels, points
            )

        costs = [
            jax.vmap(image_costs)(
                masks, classes, targets.id_map, targets.labels, _fold_in(rngs, m)
            )
            for m, (masks, classes) in enumerate(
                zip(outputs.mask_logits, outputs.class_logits)
            )
        ]
        costs = jax.lax.stop_gradient(jnp.stack(costs))
        return MATCHERS[self.matcher](costs, valid)

    def _pair_losses(
        self,
        run: Callable,
        mask_logits: tuple[Float[Array, "B Q h w"], ...],
        query_of_target: Int[Array, "M B T"],
        targets: Targets,
        valid: Bool[Array, "B T"],
        rngs: Key[Array, " B"],
    ):
        """Runs `run(losses, mask_logits)` on the losses of the matched pairs.

        The cost follows the real pairs and not the padding: pairs are moved to the
        front, and of a few sizes the smallest that holds them all is run.

        `losses` maps mask logits to per-image sums [M, B] over pairs: the weighted
        mask loss, and beside it (mask, dice).
        """
        num_predictions, batch, num_targets = query_of_target.shape
        queries = jnp.maximum(query_of_target, 0).reshape(num_predictions, -1)
        matched = ((query_of_target >= 0) & valid).reshape(num_predictions, -1)
        order = jnp.argsort(~matched, axis=-1, stable=True)
        num_pairs = matched.sum(-1)

        def losses(size, mask_logits):
            pair = order[:, :size]
            image, target = pair // num_targets, pair % num_targets
            query = jnp.take_along_axis(queries, pair, axis=1)
            logits = [masks[image[m], query[m]] for m, masks in enumerate(mask_logits)]
            logits = jnp.concatenate(logits)
            prediction = jnp.repeat(jnp.arange(num_predictions), size)
            image, target = image.reshape(-1), target.reshape(-1)
            fold_in = jax.vmap(jax.random.fold_in)
            points, weights = mask_losses.uncertain_points(
                fold_in(fold_in(rngs[image], target), prediction),
                logits,
                num_points=self.num_points,
                oversample_ratio=self.oversample_ratio,
                importance_ratio=self.importance_ratio,
            )
            logits = point_ops.sample_each(logits, points)
            values = target_masks.sample_each(
                targets.id_map, points, image=image, target=target
            )
            mask = mask_losses.binary_cross_entropy(logits, values, weights)
            dice = mask_losses.dice(logits, values, weights)
            real = (jnp.arange(size) < num_pairs[:, None]).reshape(-1)
            sums = jnp.zeros((2, num_predictions, batch))
            sums = sums.at[:, prediction, image].add(
                jnp.where(real, jnp.stack([mask, dice]), 0.0)
            )
            weighted = self.mask_weight * sums[0] + self.dice_weight * sums[1]
            return weighted, (sums[0], sums[1])

        max_pairs = batch * min(num_targets, mask_logits[0].shape[1])
        sizes = _bucket_sizes(max_pairs)
        branches = [functools.partial(run, functools.partial(losses, n)) for n in sizes]
        branch = (num_pairs.max() > jnp.array(sizes)).sum()
        return jax.lax.switch(branch, branches, mask_logits)


def _with_early_gradient(pair_losses: Callable) -> Callable:
    """Makes the gradient of the pair losses during the forward pass.

    Differentiating a switch keeps the residuals of all its branches, taken or not, and
    recomputing them would draw and choose the points twice. An image's sum depends on
    its own logits alone, so its gradient is known up to the factor that the backward
    pass brings, and has the size of the logits.
    """

    @jax.custom_vjp
    def losses(mask_logits, *matching):
        def evaluate(losses, mask_logits):
            weighted, (mask, dice) = losses(mask_logits)
            return weighted, mask, dice

        return pair_losses(evaluate, mask_logits, *matching)

    def forward(mask_logits, *matching):
        def differentiate(losses, mask_logits):
            weighted, pullback, (mask, dice) = jax.vjp(
                losses, mask_logits, has_aux=True
            )
            (gradient,) = pullback(jnp.ones_like(weighted))
            return (weighted, mask, dice), gradient

        sums, gradient = pair_losses(differentiate, mask_logits, *matching)
        return sums, gradient

    def backward(gradient, cotangents):
        scale = cotangents[0][..., None, None, None]
        gradient = tuple(g * scale[m] for m, g in enumerate(gradient))
        return gradient, None, None, None, None

    losses.defvjp(forward, backward)
    return losses


def _fold_in(rngs: Key[Array, " B"], data: int) -> Key[Array, " B"]:
    return jax.vmap(lambda rng: jax.random.fold_in(rng, data))(rngs)


def _bucket_sizes(max_pairs: int) -> list[int]:
    """Doubling from at least 16 up to `max_pairs`, so at most half is padding."""
    sizes = []
    size = max_pairs
    while True:
        sizes.append(size)
        if size <= 16:
            return sizes[::-1]
        size = -(-size // 2)

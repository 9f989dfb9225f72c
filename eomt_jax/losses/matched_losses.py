"""Mask losses of the matched pairs, at a cost proportional to the real targets.

A batch has few targets and much padding. The real pairs are moved to the front, and a
loop computes them in chunks of one size until the last pair: nothing is dropped when
there are many, and only one chunk is in memory.

JAX can't differentiate a loop of unknown length backwards, and storing what that needs
would be expensive. But an image's sum depends on its own logits alone, so its gradient
is known up to a factor that only the backward pass knows. The forward pass therefore
computes the gradient, and the backward pass multiplies it by that factor.

Legend: M predictions, B batch, Q queries, T targets (padded), C pairs in a chunk, h w
mask logits.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from eomt_jax.losses import mask_losses
from eomt_jax.losses.options import CriterionOptions
from eomt_jax.ops import target_masks
from eomt_jax.types import Targets

# Pairs of a prediction in a chunk: two for each image, up to a limit. More would waste
# work in the last chunk, fewer would not fill a large device.
PAIRS_PER_IMAGE, MAX_CHUNK_SIZE = 2, 16

MaskLogits = tuple[Float[Array, "B Q h w"], ...]
Sums = tuple[Float[Array, "M B"], Float[Array, "M B"], Float[Array, "M B"]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def matched_losses(
    options: CriterionOptions,
    mask_logits: MaskLogits,
    query_of_target: Int[Array, "M B T"],
    targets: Targets,
    rngs: Key[Array, " B"],
) -> Sums:
    """Returns the losses of each image's matched pairs, summed over the pairs.

    Args:
      options: number and sampling of the points, weights of the parts.
      mask_logits: those of all predictions.
      query_of_target: result of the matcher; negative for targets without a query.
      targets: those of the batch.
      rngs: a key for each image, which decides the points of its pairs.

    Returns:
      mask_weight · mask + dice_weight · dice, which is differentiable in
      `mask_logits`, and mask and dice by themselves, which carry no gradient.
    """
    sums, _ = _run(
        options, mask_logits, query_of_target, targets, rngs, with_gradient=False
    )
    return sums


def _forward(options, mask_logits, query_of_target, targets, rngs):
    return _run(
        options, mask_logits, query_of_target, targets, rngs, with_gradient=True
    )


def _backward(options, gradient, cotangents):
    scale = cotangents[0][..., None, None, None]
    gradient = tuple(g * scale[m] for m, g in enumerate(gradient))
    return gradient, None, None, None


matched_losses.defvjp(_forward, _backward)


def _run(
    options: CriterionOptions,
    mask_logits: MaskLogits,
    query_of_target: Int[Array, "M B T"],
    targets: Targets,
    rngs: Key[Array, " B"],
    *,
    with_gradient: bool,
) -> tuple[Sums, MaskLogits]:
    num_predictions, batch, num_targets = query_of_target.shape
    matched = (query_of_target >= 0).reshape(num_predictions, -1)
    queries = jnp.maximum(query_of_target, 0).reshape(num_predictions, -1)
    num_pairs = matched.sum(-1)
    chunk_size = min(MAX_CHUNK_SIZE, batch * min(PAIRS_PER_IMAGE, num_targets))
    # Real pairs come first. The padding makes the last chunk whole.
    order = jnp.argsort(~matched, axis=-1, stable=True)
    order = jnp.pad(order, ((0, 0), (0, chunk_size)))
    prediction = jnp.repeat(jnp.arange(num_predictions), chunk_size)
    fold_in = jax.vmap(jax.random.fold_in)

    def add_chunk(carry):
        start, sums, gradient = carry
        pair = jax.lax.dynamic_slice_in_dim(order, start, chunk_size, axis=1)
        query = jnp.take_along_axis(queries, pair, axis=1)
        image, target = pair // num_targets, pair % num_targets
        real = start + jnp.arange(chunk_size) < num_pairs[:, None]
        logits = jnp.concatenate(
            [masks[image[m], query[m]] for m, masks in enumerate(mask_logits)]
        )
        pair_rngs = rngs[image.reshape(-1)]
        pair_rngs = fold_in(fold_in(pair_rngs, target.reshape(-1)), prediction)

        def sample(logits):
            points, sampled, weights = mask_losses.uncertain_points(
                pair_rngs,
                logits,
                num_points=options.num_points,
                oversample_ratio=options.oversample_ratio,
                importance_ratio=options.importance_ratio,
            )
            return sampled, (points, weights)

        sampled, pull_back, (points, weights) = jax.vjp(sample, logits, has_aux=True)
        values = target_masks.sample_pairs(
            targets,
            points,
            image=image.reshape(-1),
            target=target.reshape(-1),
        )

        if options.ignore_void:
            known = target_masks.sample_known(targets, points, image=image.reshape(-1))
            weights = mask_losses.known_weights(weights, known)

        def losses(sampled):
            mask = mask_losses.binary_cross_entropy(sampled, values, weights)
            dice = mask_losses.dice(sampled, values, weights)
            parts = jnp.where(real.reshape(-1), jnp.stack([mask, dice]), 0.0)
            weighted = options.mask_weight * parts[0] + options.dice_weight * parts[1]
            return weighted.sum(), parts

        if with_gradient:
            sampled_gradient, parts = jax.grad(losses, has_aux=True)(sampled)
            (chunk_gradient,) = pull_back(sampled_gradient)
            chunk_gradient = jnp.split(chunk_gradient, num_predictions)
            gradient = tuple(
                g.at[image[m], query[m]].add(chunk_gradient[m])
                for m, g in enumerate(gradient)
            )
        else:
            _, parts = losses(sampled)
        sums = sums.at[:, prediction, image.reshape(-1)].add(parts)
        return start + chunk_size, sums, gradient

    sums = jnp.zeros((2, num_predictions, batch))
    gradient = jax.tree.map(jnp.zeros_like, mask_logits) if with_gradient else ()
    _, sums, gradient = jax.lax.while_loop(
        lambda carry: carry[0] < num_pairs.max(), add_chunk, (0, sums, gradient)
    )
    mask, dice = sums
    weighted = options.mask_weight * mask + options.dice_weight * dice
    return (weighted, mask, dice), gradient

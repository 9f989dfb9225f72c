"""Mask losses at sampled points, and the sampling of the points.

Source: arXiv 2112.01527 (Mask2Former), section 3.3; PointRend, arXiv 1912.08193.
Legend: N mask pairs, P points, Q queries, T targets, h w logits.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from eomt_jax.ops.points import sample_each


def binary_cross_entropy(
    logits: Float[Array, "*shape P"],
    targets: Float[Array, "*shape P"],
    weights: Float[Array, "*shape P"],
) -> Float[Array, "*shape"]:
    """Returns the sigmoid cross-entropy, as the mean over points.

    Targets may be fractional.
    """
    losses = jax.nn.softplus(logits) - logits * targets
    return (losses * weights).sum(-1) / weights.sum(-1)


def dice(
    logits: Float[Array, "*shape P"],
    targets: Float[Array, "*shape P"],
    weights: Float[Array, "*shape P"],
) -> Float[Array, "*shape"]:
    """Returns 1 − (2Σσt + 1) / (Σσ + Σt + 1), with sums over points."""
    probs = jax.nn.sigmoid(logits) * weights
    numerator = 2 * (probs * targets).sum(-1) + 1
    return 1 - numerator / (probs.sum(-1) + (targets * weights).sum(-1) + 1)


def pairwise_costs(
    logits: Float[Array, "P Q"],
    targets: Float[Array, "P T"],
    weights: Float[Array, " P"] | None = None,
) -> tuple[Float[Array, "Q T"], Float[Array, "Q T"]]:
    """Returns `binary_cross_entropy` and `dice` of every query with every target.

    Args:
      logits: of the queries.
      targets: from 0 to 1.
      weights: of the points, at least one of them positive; 1 each by default.
    """
    probs = jax.nn.sigmoid(logits)
    sum_products = functools.partial(jnp.einsum, "pq,pt->qt", precision="highest")
    if weights is None:
        total, softplus = logits.shape[0], _sum_softplus(logits)
        sum_probs = probs.sum(0)
    else:
        total, softplus = weights.sum(), weights @ jax.nn.softplus(logits)
        sum_probs = weights @ probs
        targets = targets * weights[:, None]
    products = sum_products(logits, targets)
    bce = (softplus[:, None] - products) / total
    sums = sum_probs[:, None] + targets.sum(0)[None, :]
    return bce, 1 - (2 * sum_products(probs, targets) + 1) / (sums + 1)


def known_weights(
    weights: Float[Array, "*shape P"], known: Float[Array, "*shape P"]
) -> Float[Array, "*shape P"]:
    """Returns weights · known, or tiny equal weights where all of them would be 0."""
    weights = weights * known
    is_positive = weights.sum(-1, keepdims=True) > 0
    return jnp.where(is_positive, weights, 1e-6)


def _sum_softplus(logits: Float[Array, "P Q"]) -> Float[Array, " Q"]:
    """Returns the sum over points of softplus(x) = max(x, 0) − log σ(|x|).

    A logarithm for each point would take most of the time of the matching costs, so one
    is taken of each product of 32 values of σ: they lie between ½ and 1, and their
    product keeps its precision.
    """
    num_points, num_queries = logits.shape
    group = math.gcd(num_points, 32)
    probs = jax.nn.sigmoid(jnp.abs(logits)).reshape(-1, group, num_queries)
    return jnp.maximum(logits, 0).sum(0) - jnp.log(probs.prod(1)).sum(0)


def uniform_points(rng: Key[Array, ""], num_points: int) -> Float[Array, "P 2"]:
    """Returns random (y, x) in (0, 1), each on a grid of 65,536 positions.

    One 32-bit draw makes both coordinates: random bits are a large part of the loss.
    """
    bits = jax.random.bits(rng, (num_points,), jnp.uint32)
    halves = jnp.stack([bits >> 16, bits & 0xFFFF], axis=-1)
    return (halves.astype(jnp.float32) + 0.5) / 65536


def smallest_weights(values: Float[Array, "N C"], count: int) -> Float[Array, "N C"]:
    """Returns weight 1 for the `count` smallest of each row, 0 for the others.

    Values that tie for the last places share them. The bound is found by bisection on
    the bits of the floats, which keep their order as integers: 31 counting passes and
    no sort.

    Args:
      values: not negative.
      count: between 1 and C.
    """
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    # All passes must see the same bits. Without the barrier XLA may compute the values
    # again within each pass, and round them in another way.
    bits = jax.lax.optimization_barrier(bits)

    def add_bit(i, bound):
        candidate = bound | (jnp.int32(1) << (30 - i))
        below = (bits < candidate).sum(-1, keepdims=True)
        return jnp.where(below < count, candidate, bound)

    bound = jax.lax.fori_loop(0, 31, add_bit, jnp.zeros((len(values), 1), jnp.int32))
    below, tied = bits < bound, bits == bound
    left = count - below.sum(-1, keepdims=True)
    return below + tied * (left / tied.sum(-1, keepdims=True))


def uncertain_points(
    rngs: Key[Array, " N"],
    logits: Float[Array, "N h w"],
    *,
    num_points: int,
    oversample_ratio: float,
    importance_ratio: float,
) -> tuple[Float[Array, "N C 2"], Float[Array, "N C"], Float[Array, "N C"]]:
    """Samples points for the loss of each mask, mostly where the network is undecided.

    It draws oversample_ratio · P uniform candidates, keeps the importance_ratio · P of
    smallest |logit|, and adds fresh uniform points. Candidates that are not kept stay
    in the arrays with weight 0, since removing them costs more time. No gradient flows
    through the choice.

    Args:
      rngs: a key for each mask, so that its points don't depend on its place.
      logits: of the masks.
      num_points: P, the sum of each mask's weights.
      oversample_ratio: candidates for each point.
      importance_ratio: share of the points chosen by |logit|.

    Returns:
      (y, x) in (0, 1), the logits there, and weights that sum to P.
    """
    num_candidates = int(num_points * oversample_ratio)
    num_uncertain = int(num_points * importance_ratio)
    num_fresh = num_points - num_uncertain
    points = jax.vmap(uniform_points, (0, None))(rngs, num_candidates + num_fresh)
    sampled = sample_each(logits, points)
    uncertainty = jnp.abs(jax.lax.stop_gradient(sampled[:, :num_candidates]))
    weights = smallest_weights(uncertainty, num_uncertain)
    weights = jnp.pad(weights, ((0, 0), (0, num_fresh)), constant_values=1.0)
    return points, sampled, weights

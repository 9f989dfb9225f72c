"""Assigns targets to queries, one to one.

Both solvers take the costs of all predictions at once. Call them inside `jax.shard_map`
when the batch is sharded, since under plain jit a host callback copies the whole batch
to one device.

Legend: M predictions, B batch, Q queries, T targets (padded).
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from eomt_jax.losses.assignment import assign

# Replaces a NaN or infinite cost: finite, and higher than any real cost.
HUGE_COST = 1e10


def finite_costs(costs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Replaces NaN and ±inf by HUGE_COST, so that a broken pair is never preferred."""
    return jnp.where(jnp.isfinite(costs), costs, HUGE_COST)


def solve_on_host(
    costs: ArrayLike, num_targets: ArrayLike, valid: ArrayLike
) -> np.ndarray:
    """Returns the optimal assignment, computed by scipy.

    Args:
      costs: float [M, B, Q, T], finite.
      num_targets: int [B], valid targets of each image.
      valid: bool [B, T].

    Returns:
      int32 [M, B, T]: the query of each target, −1 for padding, and −1 for targets
      without a query where there are more targets than queries.
    """
    # The callback gets JAX arrays. Calling JAX inside a callback can deadlock, so they
    # are converted to NumPy first.
    costs, valid = np.asarray(costs), np.asarray(valid)
    num_targets = np.asarray(num_targets)
    num_predictions, batch, _, max_targets = costs.shape
    query_of_target = np.full((num_predictions, batch, max_targets), -1, np.int32)
    for b in range(batch):
        columns = np.flatnonzero(valid[b])
        if len(columns) != num_targets[b]:
            raise RuntimeError("The matcher's callback got inconsistent targets.")
        for m in range(num_predictions):
            queries, targets = scipy.optimize.linear_sum_assignment(
                costs[m, b][:, columns]
            )
            query_of_target[m, b, columns[targets]] = queries
    return query_of_target


def match_on_host(
    costs: Float[Array, "M B Q T"], valid: Bool[Array, "B T"]
) -> Int[Array, "M B T"]:
    """Calls `solve_on_host` under jit, in one callback for all predictions."""
    num_predictions, batch, num_queries, max_targets = costs.shape
    num_targets = valid.sum(-1)
    matched = jax.pure_callback(
        solve_on_host,
        jax.ShapeDtypeStruct((num_predictions, batch, max_targets), jnp.int32),
        finite_costs(costs.astype(jnp.float32)),
        num_targets,
        valid,
    )
    # On a TPU an error inside a callback can come back as arbitrary numbers, which must
    # not become gather indices. A result that is no assignment is replaced by a query
    # that does not exist, for which the criterion returns a NaN loss.
    counts = jnp.minimum(num_targets, num_queries)
    matches = (matched >= 0).sum(-1)
    sound = (matches == counts) & (matched < num_queries).all(-1)
    return jnp.where(sound[..., None], matched, num_queries)


def match_on_device(
    costs: Float[Array, "M B Q T"], valid: Bool[Array, "B T"]
) -> Int[Array, "M B T"]:
    """Returns what `solve_on_host` does, on the device: padding takes no time there."""
    num_queries, max_targets = costs.shape[2:]
    costs = finite_costs(costs.astype(jnp.float32))
    if max_targets > num_queries:
        # With more targets than queries, some get an extra query that doesn't exist.
        # It costs more than any assignment.
        span = costs.max((-2, -1), keepdims=True) - costs.min((-2, -1), keepdims=True)
        nowhere = costs.max((-2, -1), keepdims=True) + num_queries * span
        missing = max_targets - num_queries
        nowhere = jnp.broadcast_to(nowhere, (*costs.shape[:2], missing, max_targets))
        costs = jnp.concatenate([costs, nowhere], axis=2)
    matched = jax.vmap(jax.vmap(assign), (0, None))(costs, valid)
    return jnp.where(matched < num_queries, matched, -1).astype(jnp.int32)


MATCHERS = {"scipy": match_on_host, "device": match_on_device}

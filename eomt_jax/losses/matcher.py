"""One-to-one assignment of targets to queries.

Both solvers take the costs of all predictions at once and run where the shard of the
batch is: call them inside `jax.shard_map` when the batch is sharded, since under plain
jit a host callback pulls the whole batch to one device.

Legend: M predictions, B batch, Q queries, T targets (padded).
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from eomt_jax.losses.assignment import assign

# What a NaN or infinite cost becomes: finite, and worse than anything real.
HUGE_COST = 1e10


def finite_costs(costs: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """NaN and ±inf become HUGE_COST, so that a broken pair never attracts."""
    return jnp.where(jnp.isfinite(costs), costs, HUGE_COST)


def solve_on_host(
    costs: ArrayLike, num_targets: ArrayLike, valid: ArrayLike
) -> np.ndarray:
    """The optimal assignment by scipy.

    Args:
      costs: float [M, B, Q, T], finite.
      num_targets: int [B], valid targets of each image.
      valid: bool [B, T].

    Returns:
      int32 [M, B, T]: the query of each target, −1 for padding, and for targets that
      found no query because there are more of them than queries.
    """
    # The callback hands over jax arrays: NumPy only from here on, since calling JAX
    # inside a callback can deadlock.
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
    """`solve_on_host` from inside jit, in one callback for all predictions."""
    num_predictions, batch, num_queries, max_targets = costs.shape
    num_targets = valid.sum(-1)
    matched = jax.pure_callback(
        solve_on_host,
        jax.ShapeDtypeStruct((num_predictions, batch, max_targets), jnp.int32),
        finite_costs(costs.astype(jnp.float32)),
        num_targets,
        valid,
    )
    # On TPU an error inside a callback can come back as arbitrary numbers. Those must
    # not become gather indices: a result that is no assignment is made visible as a
    # query that does not exist, which the criterion turns into a NaN loss.
    counts = jnp.minimum(num_targets, num_queries)
    matches = (matched >= 0).sum(-1)
    sound = (matches == counts) & (matched < num_queries).all(-1)
    return jnp.where(sound[..., None], matched, num_queries)


def match_on_device(
    costs: Float[Array, "M B Q T"], valid: Bool[Array, "B T"]
) -> Int[Array, "M B T"]:
    """`solve_on_host` on the device: no callback, and padding takes no time."""
    num_queries, max_targets = costs.shape[2:]
    costs = finite_costs(costs.astype(jnp.float32))
    if max_targets > num_queries:
        # Targets may find no query. One that isn't there is dearer than any assignment.
        span = costs.max((-2, -1), keepdims=True) - costs.min((-2, -1), keepdims=True)
        nowhere = costs.max((-2, -1), keepdims=True) + num_queries * span
        missing = max_targets - num_queries
        nowhere = jnp.broadcast_to(nowhere, (*costs.shape[:2], missing, max_targets))
        costs = jnp.concatenate([costs, nowhere], axis=2)
    matched = jax.vmap(jax.vmap(assign), (0, None))(costs, valid)
    return jnp.where(matched < num_queries, matched, -1).astype(jnp.int32)


MATCHERS = {"scipy": match_on_host, "device": match_on_device}

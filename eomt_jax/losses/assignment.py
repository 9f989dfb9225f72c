"""Solves the linear assignment problem under jit, with padding among the targets.

Legend: Q queries, T targets (padded).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class _Assignment(NamedTuple):
    """An optimal assignment of some of the targets, and the dual variables to it."""

    query_of: Int[Array, " T"]
    target_of: Int[Array, " Q"]
    target_dual: Float[Array, " T"]
    query_dual: Float[Array, " Q"]


class _Search(NamedTuple):
    """State of the search for the shortest path from a target to a free query."""

    distance: Float[Array, " Q"]
    previous: Int[Array, " Q"]
    reached: Bool[Array, " Q"]
    length: Float[Array, ""]
    target: Int[Array, ""]
    query: Int[Array, ""]


def assign(costs: Float[Array, "Q T"], valid: Bool[Array, " T"]) -> Int[Array, " T"]:
    """Returns the query of each valid target at the lowest total cost, −1 for padding.

    Target after target takes the shortest augmenting path, so the time depends on the
    number of valid ones. Under vmap all problems take as many steps as the longest.

    Source: D. F. Crouse, On implementing 2D rectangular assignment algorithms, 2016;
    scipy.optimize.linear_sum_assignment.

    Args:
      costs: finite; at least as many queries as valid targets.
      valid: which targets count.
    """
    num_queries, num_targets = costs.shape
    order = jnp.argsort(~valid)
    nothing = _Assignment(
        query_of=jnp.full(num_targets, -1),
        target_of=jnp.full(num_queries, -1),
        target_dual=jnp.zeros(num_targets),
        query_dual=jnp.zeros(num_queries),
    )
    found = jax.lax.fori_loop(
        0, valid.sum(), lambda i, found: _add_target(costs, order[i], found), nothing
    )
    return found.query_of


def _add_target(
    costs: Float[Array, "Q T"], target: Int[Array, ""], found: _Assignment
) -> _Assignment:
    search = _find_free_query(costs, target, found)
    # This change of the duals keeps the reduced cost of assigned pairs at 0 and that
    # of all others at 0 or above.
    change = jnp.where(search.reached, search.length - search.distance, 0.0)
    changed = jnp.where(found.target_of < 0, len(found.query_of), found.target_of)
    target_dual = found.target_dual.at[changed].add(change, mode="drop")
    target_dual = target_dual.at[target].add(search.length)

    def reassign(state):
        query, query_of, target_of, _ = state
        taker = search.previous[query]
        next_query = query_of[taker]
        query_of = query_of.at[taker].set(query)
        target_of = target_of.at[query].set(taker)
        return next_query, query_of, target_of, taker == target

    start = (search.query, found.query_of, found.target_of, jnp.array(False))
    _, query_of, target_of, _ = jax.lax.while_loop(
        lambda state: ~state[-1], reassign, start
    )
    return _Assignment(query_of, target_of, target_dual, found.query_dual - change)


def _find_free_query(
    costs: Float[Array, "Q T"], target: Int[Array, ""], found: _Assignment
) -> _Search:
    def go_on(search: _Search) -> _Search:
        dual = found.target_dual[search.target] + found.query_dual
        distance = search.length + costs[:, search.target] - dual
        nearer = ~search.reached & (distance < search.distance)
        distance = jnp.where(nearer, distance, search.distance)
        previous = jnp.where(nearer, search.target, search.previous)
        left = jnp.where(search.reached, jnp.inf, distance)
        length = left.min()
        # Among the nearest queries a free one is preferred, since it ends the search.
        query = jnp.argmax((left == length) * jnp.where(found.target_of < 0, 2, 1))
        return _Search(
            distance=distance,
            previous=previous,
            reached=search.reached.at[query].set(True),
            length=length,
            target=found.target_of[query],
            query=query,
        )

    num_queries = len(costs)
    start = _Search(
        distance=jnp.full(num_queries, jnp.inf),
        previous=jnp.full(num_queries, -1),
        reached=jnp.full(num_queries, False),
        length=jnp.array(0.0),
        target=target,
        query=jnp.array(-1),
    )
    return jax.lax.while_loop(lambda search: search.target >= 0, go_on, start)

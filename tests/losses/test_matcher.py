"""Assignments are compared by their cost, since there may be several optimal ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from eomt_jax.losses.matcher import HUGE_COST, MATCHERS, match_on_host

COUNTS = np.array([0, 1, 4, 6])


def make_problem(num_queries: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    costs = rng.normal(size=(3, 4, num_queries, 6)).astype(np.float32)
    valid = np.arange(6) < COUNTS[:, None]
    # Padding has the lowest costs, and must not be taken.
    costs = np.where(valid[None, :, None, :], costs, -100.0).astype(np.float32)
    return jnp.asarray(costs), jnp.asarray(valid)


@pytest.mark.parametrize("matcher", MATCHERS)
@pytest.mark.parametrize("num_queries", [9, 3])
def test_assignment_has_the_optimal_cost(matcher, num_queries):
    costs, valid = make_problem(num_queries)
    found = np.asarray(jax.jit(MATCHERS[matcher])(costs, valid))
    assert (found[:, ~np.asarray(valid)] == -1).all()
    for m in range(3):
        for b, count in enumerate(COUNTS):
            queries = found[m, b]
            taken = queries[queries >= 0]
            assert len(taken) == len(set(taken.tolist())) == min(count, num_queries)
            cost = np.asarray(costs[m, b])
            best = scipy.optimize.linear_sum_assignment(cost[:, :count])
            total = sum(cost[q, t] for t, q in enumerate(queries) if q >= 0)
            np.testing.assert_allclose(total, cost[:, :count][best].sum(), rtol=1e-4)


def test_broken_costs_repel():
    costs = jnp.array([[[[jnp.nan, 1.0], [2.0, -jnp.inf], [3.0, 4.0]]]])
    found = match_on_host(costs, jnp.ones((1, 2), bool))
    np.testing.assert_array_equal(found[0, 0], [1, 0])
    assert np.isfinite(np.float32(HUGE_COST))


def test_result_that_is_no_assignment_is_made_visible(monkeypatch):
    def broken(costs, num_targets, valid):
        return np.full((costs.shape[0], costs.shape[1], costs.shape[3]), 77, np.int32)

    monkeypatch.setattr("eomt_jax.losses.matcher.solve_on_host", broken)
    found = match_on_host(jnp.zeros((1, 1, 3, 2)), jnp.ones((1, 2), bool))
    np.testing.assert_array_equal(found, 3)

"""The assignment under jit costs as much as scipy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from eomt_jax.losses import assignment
from eomt_jax.losses.assignment import assign


@pytest.mark.parametrize("kind", ["reals", "ties", "broken"])
@pytest.mark.parametrize("shape", [(30, 30), (30, 7), (1, 1)], ids=str)
def test_assignment_costs_as_little_as_scipys(shape, kind):
    """Costs with ties are 0 to 3; with broken pairs, a tenth of all cost 1e10."""
    rng = np.random.default_rng(0)
    if kind == "ties":
        costs = rng.integers(0, 4, (50, *shape)).astype(np.float32)
    else:
        costs = rng.normal(size=(50, *shape)).astype(np.float32)
    if kind == "broken":
        costs = np.where(rng.random(costs.shape) < 0.1, np.float32(1e10), costs)
    valid = rng.random((50, shape[1])) < 0.7
    found = np.asarray(jax.jit(jax.vmap(assign))(costs, valid))
    np.testing.assert_array_equal(found >= 0, valid)
    for cost, queries, columns in zip(costs, found, valid, strict=True):
        queries, cost = queries[columns], cost[:, columns].astype(np.float64)
        assert len(set(queries.tolist())) == len(queries)
        best = cost[scipy.optimize.linear_sum_assignment(cost)].sum()
        total = cost[queries, np.arange(len(queries))].sum()
        np.testing.assert_allclose(total, best, rtol=1e-6, atol=1e-5)


def test_padding_takes_no_steps(monkeypatch):
    searches, search = [], assignment._find_free_query

    def counted(*arguments):
        searches.append(1)
        return search(*arguments)

    monkeypatch.setattr(assignment, "_find_free_query", counted)
    costs = 1 - jnp.eye(9, 200).T
    valid = jnp.arange(9) % 4 == 0
    with jax.disable_jit():
        found = assign(costs, valid)
    np.testing.assert_array_equal(found, [0, -1, -1, -1, 4, -1, -1, -1, 8])
    assert len(searches) == 3

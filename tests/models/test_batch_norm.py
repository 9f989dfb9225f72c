"""Batch normalisation equals numbers computed by hand, on one device and on eight."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from eomt_jax.models import batch_norm
from eomt_jax.models.batch_norm import BatchNorm
from eomt_jax.parallel.mesh import BATCH_AXES, MeshOptions, create_mesh

# One channel of two images of 1×2 pixels: mean 3, sum of squared differences 14.
VALUES = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(2, 1, 2, 1)
VARIABLES = {
    "params": {"scale": jnp.array([2.0]), "bias": jnp.array([0.5])},
    "batch_stats": {"mean": jnp.array([1.0]), "var": jnp.array([4.0])},
}


def train(x, variables=VARIABLES, **fields):
    return BatchNorm(**fields).apply(variables, x, train=True, mutable=["batch_stats"])


def test_training_normalises_by_the_batch_and_moves_the_running_statistics():
    out, updated = train(VALUES)
    expected = [-4 / np.sqrt(3.5), -2 / np.sqrt(3.5), 0, 6 / np.sqrt(3.5)]
    np.testing.assert_allclose(out.ravel(), 0.5 + np.array(expected), rtol=1e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], [0.9 * 1 + 0.1 * 3], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], [0.9 * 4 + 0.1 * 14 / 3], rtol=1e-6)


def test_evaluation_uses_the_running_statistics_and_keeps_them():
    out, updated = BatchNorm().apply(
        VARIABLES, VALUES, train=False, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(out.ravel(), [0.5, 1.5, 2.5, 5.5], rtol=1e-5)
    assert updated["batch_stats"] == VARIABLES["batch_stats"]


def test_initialising_leaves_the_running_statistics_at_mean_0_and_variance_1():
    variables = BatchNorm().init(jax.random.key(0), VALUES, train=True)
    assert variables["batch_stats"] == {"mean": 0, "var": 1}
    assert variables["params"] == {"scale": 1, "bias": 0}


def test_epsilon_is_added_to_the_variance():
    out, _ = train(VALUES * 1e-3)  # variance 3.5e-6
    expected = 0.5 + 2 * 3e-3 / np.sqrt(3.5e-6 + 1e-5)
    np.testing.assert_allclose(out.max(), expected, rtol=1e-5)


def test_variance_of_large_values_is_computed_in_two_passes():
    x = 1000 + 0.01 * VALUES
    _, variance = batch_norm.batch_statistics(x)
    np.testing.assert_allclose(variance, [3.5e-4], rtol=0.02)  # 1000 rounds to 6e-5


def test_bfloat16_maps_have_float32_statistics():
    x = (100 + VALUES).astype(jnp.bfloat16)
    out, updated = train(x, dtype=jnp.bfloat16)
    assert out.dtype == jnp.bfloat16
    assert updated["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [11.2], rtol=1e-6)


def test_one_value_per_channel_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 1, 1\) has one value per channel"):
        train(VALUES[:1, :, :1])


class Layers(nn.Module):
    """Applies a linear layer and a BatchNorm twice."""

    @nn.compact
    def __call__(self, x, train):
        for i in range(2):
            x = nn.Dense(x.shape[-1], name=f"dense_{i}")(x)
            x = nn.relu(BatchNorm(name=f"norm_{i}")(x, train))
        return x


class PlainLayers(nn.Module):
    """Computes what Layers does, with flax's BatchNorm and JAX's own gradient."""

    @nn.compact
    def __call__(self, x, train):
        for i in range(2):
            x = nn.Dense(x.shape[-1], name=f"dense_{i}")(x)
            norm = nn.BatchNorm(
                use_running_average=not train, use_fast_variance=False, name=f"norm_{i}"
            )
            x = nn.relu(norm(x))
        return x


RematLayers = nn.remat(Layers, policy=batch_norm.keep_statistics, static_argnums=(2,))


@pytest.fixture(scope="module")
def maps():
    return jax.random.normal(jax.random.key(0), (8, 4, 3, 16))


@pytest.fixture(scope="module")
def variables(maps):
    return Layers().init(jax.random.key(1), maps, train=True)


def gradients(model, variables, x):
    """Returns gradients of parameters and of x, and the running statistics."""

    def loss(params, x):
        out, updated = model.apply(
            {**variables, "params": params}, x, True, mutable=["batch_stats"]
        )
        return jnp.sin(3 * out).mean(), updated["batch_stats"]

    return jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)


def assert_near(found, expected):
    """Asserts that each leaf is near another, compared with its largest value."""

    def compare(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())

    jax.tree.map(compare, found, expected)


def test_gradients_are_those_of_the_formula(variables, maps):
    found, _ = gradients(Layers(), variables, maps)
    expected, _ = gradients(PlainLayers(), variables, maps)
    for grads in (found, expected):  # a bias before the norm changes nothing
        for i in range(2):
            del grads[0][f"dense_{i}"]["bias"]
    assert_near(found, expected)


def test_remat_moves_the_running_statistics_once(variables, maps):
    expected = jax.jit(gradients, static_argnums=0)(Layers(), variables, maps)
    found = jax.jit(gradients, static_argnums=0)(RematLayers(), variables, maps)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        found,
        expected,
    )


@pytest.mark.parametrize("model", [Layers(), RematLayers()])
def test_statistics_are_computed_once_for_both_passes(model, variables, maps):
    program = str(jax.make_jaxpr(gradients, static_argnums=0)(model, variables, maps))
    assert program.count("name=batch_norm statistics") == 4  # of two norms


def test_eight_devices_have_the_statistics_of_the_whole_batch(variables, maps):
    maps = maps + jnp.arange(8.0).reshape(8, 1, 1, 1)  # images unlike each other
    mesh = create_mesh(MeshOptions(data=4, fsdp=2))
    split = jax.device_put(maps, jax.NamedSharding(mesh, P(BATCH_AXES)))
    step = jax.jit(gradients, static_argnums=0)
    expected, found = (step(RematLayers(), variables, x) for x in (maps, split))
    for grads, _ in (found, expected):
        for i in range(2):
            del grads[0][f"dense_{i}"]["bias"]
    assert_near(found, expected)

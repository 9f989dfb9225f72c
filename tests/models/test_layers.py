"""Layers equal their formulas, which are computed in another form."""

import jax
import jax.numpy as jnp
import numpy as np

from eomt_jax.models import layers


def test_scaled_dense_is_a_dense_layer_and_a_scale_after_it(rng):
    x = jax.random.normal(rng, (2, 5, 3, 4))
    scale = jnp.linspace(-1, 2, 6)
    layer = layers.Dense(6, num_axes=2)
    params = layer.init(rng, x, scale)["params"]
    assert params["kernel"].shape == (3, 4, 6)
    params["bias"] = jnp.arange(6.0)
    expected = (x.reshape(2, 5, 12) @ params["kernel"].reshape(12, 6)) + params["bias"]
    found = layer.apply({"params": params}, x, scale)
    np.testing.assert_allclose(found, expected * scale, atol=1e-5)

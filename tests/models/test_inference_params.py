"""Parameters for inference give the same numbers as the network's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models.variants import create_eomt
from eomt_jax.parallel.platform import Platform, tracing_for
from eomt_jax.training.state import param_shapes

ONE_CPU, OLD_GPU, H100 = Platform("cpu"), Platform("gpu"), Platform("gpu", (9, 0))


def random_network(dtype, **overrides):
    """Returns a tiny EoMT with parameters that are neither 0 nor 1."""
    model = create_eomt(
        "tiny",
        num_classes=3,
        num_queries=5,
        image_size=(32, 32),
        dtype=dtype,
        depth=2,
        **overrides,
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    params = jax.tree.map(
        lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32) + 0.05,
        param_shapes(model),
    )
    return model, params, images


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", [ONE_CPU, OLD_GPU], ids=lambda p: p.name)
@pytest.mark.parametrize(
    "overrides",
    [{}, {"qkv_bias": "no_key", "positions": "rotary"}, {"qkv_bias": "none"}],
    ids=str,
)
def test_predictions_are_the_same(dtype, platform, overrides):
    model, params, images = random_network(dtype, **overrides)

    @jax.jit
    def predict(params):
        return model.apply({"params": params}, images)

    with tracing_for(platform):
        expected = predict(params)
    with tracing_for(H100 if platform == OLD_GPU else platform):
        # The form is for an H100; a GPU without its kernel can compute with it too.
        prepared = jax.jit(model.inference_params)(params)
    with tracing_for(platform):
        found = predict(prepared)
    # The sums of another program may round in another way.
    rounding = 1e-5 if dtype == "float32" else 3e-2
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=rounding * np.abs(b).max())


def test_weights_take_the_dtype_and_lie_apart_where_they_multiply_apart():
    model, params, _ = random_network("bfloat16")
    with tracing_for(H100):
        apart = model.inference_params(params)
    with tracing_for(ONE_CPU):
        together = model.inference_params(params)
    block = apart["vit"]["block_0"]
    assert "layer_scale1" not in block and "layer_scale2" not in block
    assert block["norm1"]["scale"].dtype == jnp.float32
    assert block["mlp"]["down"]["kernel"].dtype == jnp.bfloat16
    assert apart["queries"].dtype == jnp.bfloat16
    assert block["attention"]["qkv"].keys() == {
        f"{part}_{name}"
        for part in ("query", "key", "value")
        for name in ("kernel", "bias")
    }
    assert together["vit"]["block_0"]["attention"]["qkv"].keys() == {"kernel", "bias"}

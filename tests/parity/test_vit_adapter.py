"""A training step of ViT-Adapter equals its authors' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.trees import leaves_by_path
from tests.models.adapter_network import (
    adapter_path,
    network_variables,
    small_network,
)
from tests.models.golden_files import our_layout, read_golden, to_nhwc

pytestmark = pytest.mark.parity

MAPS = ("f4", "f8", "f16", "f32")
OF_VIT = {
    "vit.cls_token": "vit/class_token",
    "vit.reg_token": "vit/register_tokens",
    "vit.blocks.0.ls1.gamma": "vit/block_0/layer_scale1",
}


def wanted(golden, kind):
    """Returns the arrays whose names begin with a kind, by the rest of their names."""
    return {k.removeprefix(kind): x for k, x in golden.items() if k.startswith(kind)}


@pytest.fixture(scope="module")
def golden():
    return read_golden("adapter_weights") | read_golden("adapter_train")


@pytest.fixture(scope="module")
def step(golden):
    """Returns the loss, maps, running statistics and gradients of one step."""
    pixels = to_nhwc(golden["in/image"])
    cotangents = [to_nhwc(golden[f"in/cotangent_{name}"]) for name in MAPS]
    model = small_network((64, 64))
    variables = network_variables(golden, model)

    def loss(params, pixels):
        maps, updated = model.apply(
            {**variables, "params": params},
            pixels,
            True,
            method="maps",
            mutable=["batch_stats"],
        )
        total = sum((m * c).sum() for m, c in zip(maps, cotangents, strict=True))
        return total, (maps, updated["batch_stats"]["adapter"])

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (total, (maps, stats)), gradients = step(variables["params"], pixels)
    return total, dict(zip(MAPS, maps)), leaves_by_path(stats), gradients


def test_loss_and_maps_have_the_statistics_of_the_batch(golden, step):
    total, maps, _, _ = step
    np.testing.assert_allclose(total, golden["out/loss"], rtol=1e-5)
    for name in ("f16", "f32"):
        np.testing.assert_allclose(
            maps[name], to_nhwc(golden[f"out/{name}"]), atol=2e-5
        )


def test_running_statistics_after_one_step(golden, step):
    _, _, stats, _ = step
    after = wanted(golden, "after/")
    assert {adapter_path(name) for name in after} == set(stats)
    for name, x in after.items():
        found = stats[adapter_path(name)]
        np.testing.assert_allclose(found, x, atol=1e-5, err_msg=name)


def test_gradients(golden, step):
    *_, (grads, of_pixels) = step
    expected = wanted(golden, "grad/")
    mean = expected.pop("image_mean_abs")
    np.testing.assert_allclose(jnp.abs(of_pixels).mean(), mean, rtol=1e-5)
    grads = leaves_by_path(grads)
    assert len(expected) == 13
    for name, x in expected.items():
        path = OF_VIT.get(name) or f"adapter/{adapter_path(name)}"
        found, x = grads[path], our_layout(path, x)
        atol = 1e-5 * np.abs(x).max()
        np.testing.assert_allclose(found, x.reshape(found.shape), atol=atol)

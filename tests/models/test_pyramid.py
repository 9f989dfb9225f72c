"""The pyramid equals the release's scale blocks, and says which maps it can't make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from jax.sharding import PartitionSpec as P

from eomt_jax.models.pyramid import PYRAMID_RULES, Pyramid
from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.parallel.partition import param_shardings
from tests.models.golden_files import our_layout, read_golden, to_nhwc


def our_path(name):
    """Returns the path of our parameter, such as scale_4/block_1/norm/bias."""
    scale, block, layer, kind = name.replace("f", "scale_", 1).split(".")
    layers = {"conv1": "transposed", "conv2": "depthwise", "norm": "norm"}
    path = f"{scale}/block_{block}/{layers[layer]}"
    if scale == "scale_32":
        path = f"{scale}/{layers[layer]}".replace("transposed", "conv")
    weight = "scale" if layer == "norm" else "kernel"
    return f"{path}/{'bias' if kind == 'bias' else weight}"


@pytest.fixture(scope="module")
def golden():
    return read_golden("pyramid")


@pytest.fixture(scope="module")
def params(golden):
    weights = {
        our_path(name.removeprefix("w/")): weight
        for name, weight in golden.items()
        if name.startswith("w/")
    }
    return unflatten_dict(
        {path: our_layout(path, weight) for path, weight in weights.items()}, sep="/"
    )


def apply(params, patches, **fields):
    return jax.jit(Pyramid(**fields).apply)({"params": params}, patches)


def test_maps_of_a_non_square_image_are_those_of_the_release(golden, params):
    patches = to_nhwc(golden["wide/in/f_vit"])
    maps = apply(params, patches)
    for found, scale in zip(maps, (4, 8, 16, 32), strict=True):
        name = "wide/in/f_vit" if scale == 16 else f"wide/out/f{scale}"
        np.testing.assert_allclose(found, to_nhwc(golden[name]), atol=1e-5)


def test_epsilon_is_that_of_the_release(golden, params):
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 2**-8 if "depthwise" in str(path) else x, params
    )
    (found,) = apply(params, to_nhwc(golden["eps/in/f_vit"]), scales=(32,))
    np.testing.assert_allclose(found, to_nhwc(golden["eps/out/f32"]), atol=1e-5)


def test_remat_changes_no_gradient(golden, params):
    patches = to_nhwc(golden["wide/in/f_vit"])

    def gradient(remat):
        model = Pyramid(scales=(8, 32), remat=remat)

        def loss(params):
            maps = model.apply({"params": params}, patches)
            return sum(jnp.sin(m).mean() for m in maps)

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        gradient(True),
        gradient(False),
    )


def test_maps_and_parameters_are_those_of_the_scales():
    shapes = jax.eval_shape(
        Pyramid(scales=(4, 16), dtype=jnp.bfloat16).init_with_output,
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, 3, 5, 8), jnp.bfloat16),
    )
    maps, variables = shapes
    assert [(m.shape, m.dtype) for m in maps] == [
        ((2, 12, 20, 8), jnp.bfloat16),
        ((2, 3, 5, 8), jnp.bfloat16),
    ]
    assert set(variables["params"]) == {"scale_4"}


def test_every_parameter_has_a_rule(params):
    mesh = create_mesh(MeshOptions(2, 2, 2))
    shardings = param_shardings({"pyramid": params}, mesh, PYRAMID_RULES)["pyramid"]
    assert shardings["scale_32"]["conv"]["kernel"].spec == P(
        None, None, "fsdp", "tensor"
    )
    assert shardings["scale_4"]["block_1"]["norm"]["bias"].spec == P(None)


def test_an_odd_number_of_patches_has_no_half():
    patches = jax.ShapeDtypeStruct((1, 4, 3, 8), jnp.float32)
    with pytest.raises(ValueError, match="4 × 3 patches.*image_size.*32 pixels"):
        jax.eval_shape(Pyramid().init, jax.random.key(0), patches)

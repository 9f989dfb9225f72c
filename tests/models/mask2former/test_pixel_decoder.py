"""Sizes, parameters and initial values of the pixel decoder."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from eomt_jax.models.mask2former.pixel_decoder import PIXEL_DECODER_RULES, PixelDecoder
from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.parallel.partition import param_shardings
from eomt_jax.trees import leaves_by_path


def shapes_of(model, width, size):
    """Returns the shapes of parameters and results; `size` is that of the 1/32 map."""
    rows, columns = size
    maps = tuple(
        jax.ShapeDtypeStruct((2, scale * rows, scale * columns, width), jnp.float32)
        for scale in (8, 4, 2, 1)
    )
    params = jax.eval_shape(model.init, jax.random.key(0), maps)["params"]
    return params, jax.eval_shape(model.apply, {"params": params}, maps)


def num_params(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_pixel_decoder_has_the_parameters_of_the_original():
    params, (levels, features) = shapes_of(PixelDecoder(), 1024, (2, 3))
    assert num_params(params) == 6_101_440
    assert num_params(params["layer_0"]) == 732_192
    assert [level.shape for level in levels] == [
        (2, 2, 3, 256),
        (2, 4, 6, 256),
        (2, 8, 12, 256),
    ]
    assert features.shape == (2, 16, 24, 256)


def test_partition_rules_split_every_large_parameter():
    params, _ = shapes_of(PixelDecoder(num_layers=1), 64, (1, 1))
    mesh = create_mesh(MeshOptions(data=1, fsdp=2, tensor=2), devices=jax.devices()[:4])
    shardings = leaves_by_path(param_shardings(params, mesh, PIXEL_DECODER_RULES))
    for path, leaf in leaves_by_path(params).items():
        assert leaf.ndim == 1 or not shardings[path].is_fully_replicated, path
    # Splitting these over fsdp would cast them to bfloat16.
    for name in ("offsets", "weights"):
        spec = shardings[f"layer_0/deformable/{name}/kernel"].spec
        assert spec == PartitionSpec(None, "tensor")


def test_fresh_pixel_decoder_has_the_originals_values(rng):
    model = PixelDecoder(32, num_heads=4, mlp_dim=128, num_layers=1)
    maps = tuple(jnp.ones((1, side, side, 64)) for side in (8, 4, 2, 1))
    params = leaves_by_path(jax.jit(model.init)(rng, maps)["params"])
    # Xavier's uniform values for matrices, by fan-in alone for convolutions, PyTorch's
    # default for the biases of the feed-forward.
    bounds = {
        "projection_0/kernel": (6 / (64 + 32)) ** 0.5,
        "layer_0/mlp/up/kernel": (6 / (32 + 128)) ** 0.5,
        "layer_0/mlp/up/bias": 32**-0.5,
        "layer_0/mlp/down/bias": 128**-0.5,
        "lateral/kernel": (3 / 64) ** 0.5,
        "smoothing/kernel": (3 / (9 * 32)) ** 0.5,
        "mask_projection/kernel": (3 / 32) ** 0.5,
    }
    for path, bound in bounds.items():
        assert 0.8 * bound < np.abs(params[path]).max() <= bound, path
    for path in ("projection_0/bias", "mask_projection/bias"):
        assert not params[path].any()
    np.testing.assert_allclose(params["level_embedding"].std(), 1, atol=0.25)

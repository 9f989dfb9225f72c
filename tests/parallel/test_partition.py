import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from eomt_jax.models import variants
from eomt_jax.models.eomt import EOMT_RULES
from eomt_jax.parallel import partition
from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.training.optimizer import create_optimizer
from eomt_jax.training.state import param_shapes


@pytest.fixture(scope="module")
def mesh():
    return create_mesh(MeshOptions(2, 2, 2))


def shapes_of(variant, patch_size=16):
    model = variants.create_eomt(
        variant,
        num_classes=133,
        num_queries=200,
        image_size=(160, 320),
        patch_size=patch_size,
    )
    return model, param_shapes(model)


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_parameter_of_every_variant_has_a_rule(variant, mesh):
    _, shapes = shapes_of(variant)
    shardings = partition.param_shardings(shapes, mesh, EOMT_RULES)
    assert all(s.mesh == mesh for s in jax.tree.leaves(shardings))


def test_large_parameters_are_split_over_fsdp_and_tensor(mesh):
    _, shapes = shapes_of("giant")
    shardings = jax.tree.leaves(partition.param_shardings(shapes, mesh, EOMT_RULES))
    leaves = jax.tree.leaves(shapes)
    local = [np.prod(s.shard_shape(leaf.shape)) for s, leaf in zip(shardings, leaves)]
    share = sum(local) / sum(leaf.size for leaf in leaves)
    assert share < 0.26  # a quarter, and parameters that are too small to split


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        (
            "vit/block_7/attention/qkv/kernel",
            (384, 3, 6, 64),
            P("fsdp", None, "tensor", None),
        ),
        ("vit/block_11/attention/out/kernel", (6, 64, 384), P("tensor", None, "fsdp")),
        ("mu/vit/block_0/mlp/up/kernel", (384, 1536), P("fsdp", "tensor")),
        ("vit/norm/scale", (384,), P(None)),
        ("vit/block_0/norm2/bias", (384,), P(None)),
        ("queries", (200, 384), P(None, "fsdp")),
        ("opt_state/count", (), P()),
    ],
)
def test_partition_spec_of_chosen_parameters(path, shape, spec, mesh):
    assert partition.partition_spec(path, shape, mesh, EOMT_RULES.all) == spec


def test_a_dimension_that_does_not_divide_stays_whole_alone():
    mesh = create_mesh(MeshOptions(1, 2, 4))
    path = "vit/block_0/attention/qkv/kernel"
    spec = partition.partition_spec(path, (384, 3, 6, 64), mesh, EOMT_RULES.all)
    assert spec == P("fsdp", None, None, None)


def test_optimizer_moments_lie_where_their_parameters_do(mesh):
    model, shapes = shapes_of("small")
    tx = create_optimizer(model.parameter_groups(shapes), total_steps=10_000)
    state = jax.eval_shape(tx.init, shapes)
    wanted = partition.param_shardings(shapes, mesh, EOMT_RULES)
    shardings = partition.param_shardings(state, mesh, EOMT_RULES)
    assert shardings.mu == wanted and shardings.nu == wanted
    assert shardings.count.spec == P()


def test_parameter_without_a_rule_raises(mesh):
    shapes = {"vit": {"novelty": jax.ShapeDtypeStruct((4,), jnp.float32)}}
    with pytest.raises(ValueError, match="vit/novelty .*add a row"):
        partition.param_shardings(shapes, mesh, EOMT_RULES)
    # A pattern must match whole names, not the end of one.
    with pytest.raises(ValueError, match="no partition rule"):
        partition.partition_spec("my_queries", (4, 4), mesh, EOMT_RULES.all)


def test_parameter_of_another_rank_than_its_rule_raises(mesh):
    with pytest.raises(ValueError, match="names 2 dimensions"):
        partition.partition_spec("queries", (4,), mesh, EOMT_RULES.all)


class Layers(nn.Module):
    """Matrices with names of those that `apply_sharded` gathers."""

    @nn.compact
    def __call__(self, x):
        for i in range(3):
            dense = nn.Dense(32, use_bias=False, name=f"mask_head/layer_{i}")
            x = nn.relu(dense(x))
        return x


def create_vit(**overrides):
    sizes = {"embed_dim": 64, "depth": 4, "num_heads": 2, "mlp_dim": 256}
    return variants.create_vit(
        "tiny", image_size=(32, 32), layer_scale_init=1.0, **(sizes | overrides)
    )


def gradients(model, x, mesh):
    """Returns a function (params, x), and arguments for it."""
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]

    def loss(params, x):
        out = partition.apply_sharded(model, params, x, mesh=mesh, rules=EOMT_RULES)
        return jnp.sin(3 * out).mean()

    params = jax.device_put(params, partition.param_shardings(params, mesh, EOMT_RULES))
    rows = jax.NamedSharding(mesh, P(("data", "fsdp")))
    return jax.jit(jax.grad(loss)), params, jax.device_put(x, rows)


@pytest.mark.parametrize("case", ["layers", "blocks", "blocks_remat"])
def test_gathered_weights_give_the_gradients_of_one_device(case, rng):
    """XLA alone computes them wrong on this mesh: see `apply_sharded`."""
    if case == "layers":
        model, x = Layers(), jax.random.normal(rng, (8, 4, 32))
    else:
        model = create_vit(depth=2, remat=case == "blocks_remat")
        x = jax.random.bits(rng, (8, 32, 32, 3), jnp.uint8)
    mesh = create_mesh(devices=jax.devices()[:1])
    one, eight = (
        grad(params, x)
        for grad, params, x in (
            gradients(model, x, mesh),
            gradients(model, x, create_mesh(MeshOptions(2, 2, 2))),
        )
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight)):
        np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("remat", [False, True])
def test_each_block_gathers_its_weights_forward_and_again_backward(remat, rng):
    model = create_vit(depth=2, remat=remat)
    x = jax.random.bits(rng, (8, 32, 32, 3), jnp.uint8)
    grad, params, x = gradients(model, x, create_mesh(MeshOptions(1, 8, 1)))
    program = grad.lower(params, x).compile().as_text()
    sizes = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", program)
    counts = collections.Counter(sizes)
    matrices = ["64,3,2,32", "2,32,64", "64,256", "256,64"]
    assert {size: counts[size] for size in matrices} == dict.fromkeys(matrices, 4)


def test_matrices_travel_in_the_dtype_that_computes(rng):
    model = create_vit(depth=1, dtype="bfloat16")
    x = jax.random.bits(rng, (8, 32, 32, 3), jnp.uint8)
    grad, params, x = gradients(model, x, create_mesh(MeshOptions(1, 8, 1)))
    # The text is that before compiling: for a CPU, bfloat16 collectives become float32.
    program = grad.lower(params, x).as_text()
    assert set(re.findall(r"sharding_constraint .*tensor<64x256x(\w+)>", program)) == {
        "bf16"
    }

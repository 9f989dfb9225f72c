import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from eomt_jax.models import variants
from eomt_jax.parallel import partition
from eomt_jax.parallel.mesh import create_mesh
from eomt_jax.training.optimizer import create_optimizer
from eomt_jax.training.state import param_shapes


@pytest.fixture(scope="module")
def mesh():
    return create_mesh(2, 2, 2)


def shapes_of(variant, patch_size=16):
    model = variants.create_eomt(
        variant,
        num_classes=133,
        num_queries=200,
        image_size=(160, 320),
        patch_size=patch_size,
    )
    return param_shapes(model)


@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_every_parameter_of_every_variant_has_a_rule(variant, mesh):
    shardings = partition.param_shardings(shapes_of(variant), mesh)
    assert all(s.mesh == mesh for s in jax.tree.leaves(shardings))


def test_large_parameters_are_split_over_fsdp_and_tensor(mesh):
    shapes = shapes_of("giant")
    shardings = jax.tree.leaves(partition.param_shardings(shapes, mesh))
    leaves = jax.tree.leaves(shapes)
    local = [np.prod(s.shard_shape(leaf.shape)) for s, leaf in zip(shardings, leaves)]
    share = sum(local) / sum(leaf.size for leaf in leaves)
    assert share < 0.26  # 1/4 and what is too small to split


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
    assert partition.partition_spec(path, shape, mesh) == spec


def test_a_dimension_that_does_not_divide_stays_whole_alone():
    mesh = create_mesh(1, 2, 4)
    path = "vit/block_0/attention/qkv/kernel"
    spec = partition.partition_spec(path, (384, 3, 6, 64), mesh)
    assert spec == P("fsdp", None, None, None)


def test_optimizer_moments_lie_where_their_parameters_do(mesh):
    shapes = shapes_of("small")
    tx = create_optimizer(shapes, total_steps=10_000)
    state = jax.eval_shape(tx.init, shapes)
    wanted = partition.param_shardings(shapes, mesh)
    shardings = partition.param_shardings(state, mesh)
    assert shardings.mu == wanted and shardings.nu == wanted
    assert shardings.count.spec == P()


def test_parameter_without_a_rule_raises(mesh):
    shapes = {"vit": {"novelty": jax.ShapeDtypeStruct((4,), jnp.float32)}}
    with pytest.raises(ValueError, match="vit/novelty .*add a row"):
        partition.param_shardings(shapes, mesh)
    # The end of a name is not a name.
    with pytest.raises(ValueError, match="no partition rule"):
        partition.partition_spec("my_queries", (4, 4), mesh)


def test_parameter_of_another_rank_than_its_rule_raises(mesh):
    with pytest.raises(ValueError, match="names 2 dimensions"):
        partition.partition_spec("queries", (4,), mesh)


def test_gathered_weights_give_the_gradients_of_one_device():
    """XLA alone gets them wrong on this mesh: see `gather_fsdp`."""
    rng = np.random.default_rng(0)
    names = [f"layer_{i}" for i in range(3)]
    weights = {n: {"kernel": rng.normal(0, 0.2, (32, 32))} for n in names}
    params = jax.tree.map(np.float32, {"mask_head": weights})
    x = rng.normal(size=(8, 4, 32)).astype(np.float32)

    def gradients(mesh):
        def loss(params, x):
            params = partition.gather_fsdp(params, mesh)
            for name in names:
                x = jax.nn.relu(x @ params["mask_head"][name]["kernel"])
            return jnp.square(x).sum()

        placed = jax.device_put(params, partition.param_shardings(params, mesh))
        rows = jax.device_put(x, jax.NamedSharding(mesh, P(("data", "fsdp"))))
        return jax.jit(jax.grad(loss))(placed, rows)

    one = gradients(create_mesh(devices=jax.devices()[:1]))
    eight = gradients(create_mesh(2, 2, 2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight)):
        np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max())

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models import variants
from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.training import state as states
from eomt_jax.training.optimizer import create_optimizer


@pytest.fixture(scope="module")
def model():
    return variants.create_eomt(
        "tiny",
        num_classes=3,
        num_queries=4,
        image_size=(32, 32),
        embed_dim=16,
        depth=1,
        num_query_blocks=1,
        num_heads=2,
        mlp_dim=32,
    )


@pytest.fixture(scope="module")
def tx(model):
    return create_optimizer(
        model.parameter_groups(states.param_shapes(model)), total_steps=10_000
    )


@pytest.fixture(scope="module")
def one(model, tx):
    mesh = create_mesh(devices=jax.devices()[:1])
    return states.create_state(model, tx, jax.random.key(1), mesh)


@pytest.fixture(scope="module")
def eight(model, tx):
    return states.create_state(
        model, tx, jax.random.key(1), create_mesh(MeshOptions(2, 2, 2))
    )


def test_create_state_is_the_same_on_every_mesh(one, eight):
    jax.tree.map(np.testing.assert_array_equal, one, eight)
    kernel = eight.params["vit"]["block_0"]["mlp"]["up"]["kernel"]
    assert {s.data.shape for s in kernel.addressable_shards} == {(8, 16)}


def test_create_state_is_what_abstract_state_says(model, tx, eight):
    wanted = states.abstract_state(model, tx, create_mesh(MeshOptions(2, 2, 2)))
    assert jax.tree.structure(eight) == jax.tree.structure(wanted)

    def compare(leaf, want):
        assert (leaf.shape, leaf.dtype) == (want.shape, want.dtype)
        assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)

    jax.tree.map(compare, eight, wanted)


def test_no_device_holds_the_whole_state_of_vit_giant():
    """Its first blocks, at their real sizes, are compiled for eight devices."""
    model = variants.create_eomt(
        "giant",
        num_classes=133,
        num_queries=200,
        image_size=(1280, 1280),
        depth=2,
        num_query_blocks=1,
    )
    tx = create_optimizer(
        model.parameter_groups(states.param_shapes(model)), total_steps=10_000
    )
    mesh = create_mesh(MeshOptions(1, 8, 1))

    def create(key):
        return states.create_state(model, tx, key, mesh)

    shardings = states.state_shardings(model, tx, mesh)
    program = jax.jit(create, out_shardings=shardings).lower(jax.random.key(0))
    memory = program.compile().memory_analysis()
    held = memory.temp_size_in_bytes + memory.output_size_in_bytes
    shapes = states.abstract_state(model, tx, mesh)
    leaves = [leaf for leaf in jax.tree.leaves(shapes) if leaf.dtype == jnp.float32]
    whole = sum(leaf.size * 4 for leaf in leaves)
    assert held < 0.2 * whole


def test_create_state_starts_at_zero(one):
    assert one.step == 0 and one.opt_state.count == 0
    moments = jax.tree.leaves((one.opt_state.mu, one.opt_state.nu))
    assert not any(np.any(moment) for moment in moments)
    # The run's key isn't the key that the parameters were drawn with.
    assert not np.array_equal(one.rng, jax.random.key_data(jax.random.key(1)))


def test_loaded_weights_replace_initial_ones_and_no_others(model, tx, one):
    mesh = create_mesh(MeshOptions(2, 2, 2))
    vit = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 2.0, np.float16),
        states.param_shapes(model)["vit"],
    )
    state = states.create_state(model, tx, jax.random.key(1), mesh, loaded={"vit": vit})
    for leaf in jax.tree.leaves(state.params["vit"]):
        assert leaf.dtype == jnp.float32 and np.all(np.asarray(leaf) == 2.0)
    for name in ("queries", "class_head", "mask_head", "upscale"):
        jax.tree.map(
            np.testing.assert_array_equal, state.params[name], one.params[name]
        )


def test_fewer_loaded_queries_replace_the_first_ones(model, tx, one):
    mesh = create_mesh(MeshOptions(2, 2, 2))
    queries = np.full((3, 16), 2.0, np.float16)
    state = states.create_state(
        model, tx, jax.random.key(1), mesh, loaded={"queries": queries}
    )
    found = state.params["queries"]
    np.testing.assert_array_equal(found[:3], queries)
    np.testing.assert_array_equal(found[3:], one.params["queries"][3:])
    wanted = states.abstract_state(model, tx, mesh).params["queries"].sharding
    assert found.sharding.is_equivalent_to(wanted, 2)


def test_loaded_nan_leaves_the_initial_value(model, tx, one):
    initial = np.asarray(one.params["class_head"]["kernel"])
    kernel = np.full(initial.shape, 2.0, np.float32)
    kernel[:, 1] = np.nan
    state = states.create_state(
        model,
        tx,
        jax.random.key(1),
        create_mesh(MeshOptions(2, 2, 2)),
        loaded={"class_head": {"kernel": kernel}},
    )
    found = np.asarray(state.params["class_head"]["kernel"])
    np.testing.assert_array_equal(found[:, 1], initial[:, 1])
    assert (np.delete(found, 1, axis=1) == 2.0).all()


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        ({"queries": np.zeros((5, 16))}, r"queries \(5, 16\): wanted \(4, 16\)"),
        (
            {"class_head": {"bias": np.zeros(3)}},
            r"class_head/bias \(3,\): wanted \(4,\)",
        ),
        ({"query": np.zeros((4, 16))}, r"query \(4, 16\): no such parameter"),
    ],
)
def test_loaded_weights_that_do_not_fit_raise(model, tx, loaded, message):
    with pytest.raises(ValueError, match=message):
        states.create_state(model, tx, jax.random.key(1), create_mesh(), loaded=loaded)

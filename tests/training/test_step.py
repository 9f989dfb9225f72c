import functools
import re

import jax
import numpy as np
import pytest

from eomt_jax.losses.criterion import Criterion
from eomt_jax.models import variants
from eomt_jax.parallel.batch import place_batch
from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.training import optimizer, schedules
from eomt_jax.training.state import abstract_state, create_state, param_shapes
from eomt_jax.training.step import make_train_step
from eomt_jax.trees import leaf_path
from eomt_jax.types import Batch, Targets

STARTS, ENDS = (2,), (4,)
TOTAL_STEPS = 12
OPTIONS = {
    "learning_rate": 1e-2,
    "warmup_head": 1,
    "warmup_vit": 2,
    "published_steps": 0,
}


def create_batch():
    rng = np.random.default_rng(0)
    id_map = rng.integers(0, 3, (2, 32, 32), np.uint8)
    sizes = np.full((2, 2), 32, np.int32)
    return Batch(
        image=rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
        targets=Targets(
            id_map=id_map,
            labels=np.array([[0, 2], [1, 1]], np.int32),
            valid=np.ones((2, 2), bool),
            is_crowd=np.zeros((2, 2), bool),
        ),
        valid=np.ones(2, bool),
        example_index=np.arange(2, dtype=np.int32),
        content_size=sizes,
        original_size=sizes,
    )


def create_step(mesh, *, frozen_blocks=0, accumulation=1, **options):
    """Returns (model, optimizer, step)."""
    model = variants.create_eomt(
        "tiny",
        num_classes=3,
        num_queries=4,
        num_query_blocks=1,
        image_size=(32, 32),
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_dim=32,
        layer_scale_init=1.0,
    )
    options = optimizer.OptimizerOptions(
        **{**OPTIONS, **options}, frozen_blocks=frozen_blocks
    )
    tx = optimizer.create_optimizer(
        model.parameter_groups(param_shapes(model)), options, total_steps=TOTAL_STEPS
    )
    train_step = make_train_step(
        model,
        Criterion(num_points=32),
        tx,
        mask_probs_fn=functools.partial(
            schedules.mask_probs, starts=STARTS, ends=ENDS, power=0.9
        ),
        learning_rate_fns=schedules.learning_rate_schedules(
            options, total_steps=TOTAL_STEPS
        ),
        mesh=mesh,
        frozen_blocks=frozen_blocks,
        accumulation=accumulation,
    )
    return model, tx, train_step


def repeat_step(num_steps, **options):
    """Runs steps on one device; returns (step, batch, states from 0 on, metrics)."""
    mesh = create_mesh(devices=jax.devices()[:1])
    model, tx, train_step = create_step(mesh, **options)
    state = create_state(model, tx, jax.random.key(0), mesh)
    batch = place_batch(create_batch(), mesh)
    states, metrics = [jax.device_get(state)], []
    for _ in range(num_steps):
        state, row = train_step(state, batch)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(row))
    return train_step, batch, states, metrics


@pytest.fixture(scope="module")
def run():
    return repeat_step(6)


def test_step_counts_and_reports_what_it_used(run):
    _, _, states, metrics = run
    assert [int(state.step) for state in states] == list(range(7))
    assert [int(state.opt_state.count) for state in states] == list(range(7))
    head, vit = schedules.learning_rate_schedules(
        schedules.RateOptions(**OPTIONS), total_steps=TOTAL_STEPS
    )
    for step, row in enumerate(metrics):
        np.testing.assert_allclose(row["learning_rate/head"], head(step), rtol=1e-6)
        np.testing.assert_allclose(row["learning_rate/vit"], vit(step), rtol=1e-6)
        probs = schedules.mask_probs(step, starts=STARTS, ends=ENDS, power=0.9)
        np.testing.assert_allclose([row["mask_prob/0"]], probs)
    assert metrics[0]["mask_prob/0"] == 1 and metrics[4]["mask_prob/0"] == 0


def test_metrics_are_weighted_parts_that_sum_to_the_loss(run):
    # The number of predictions is that of blocks with queries and one, masked or not.
    for row in run[3]:
        parts = [row[f"loss/{name}"] for name in ("mask", "dice", "class")]
        np.testing.assert_allclose(row["loss"], sum(parts), rtol=1e-5)
        for name, part in zip(("mask", "dice", "class"), parts):
            each = [row[f"loss/{name}_{i}"] for i in range(2)]
            np.testing.assert_allclose(part, sum(each), rtol=1e-5)
            assert f"loss/{name}_2" not in row
        assert all(np.shape(value) == () for value in row.values())


def test_first_step_moves_nothing_and_the_second_only_what_is_outside_the_vit(run):
    _, _, states, metrics = run
    assert metrics[0]["grad_norm"] > 0.01  # of the gradients as they were

    def moved(a, b):
        tree = jax.tree.map(lambda x, y: bool(np.any(x != y)), a.params, b.params)
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {leaf_path(path) for path, changed in leaves if changed}

    everything = moved(states[0], states[6])
    assert len(everything) == len(jax.tree.leaves(states[0].params))
    assert moved(states[0], states[1]) == set()
    second = moved(states[1], states[2])
    assert second == {path for path in everything if not path.startswith("vit/")}


def test_loss_falls_on_one_batch(run):
    losses = [row["loss"] for row in run[3]]
    assert losses[-1] < losses[0]


def test_step_is_a_function_of_its_state(run):
    train_step, batch, states, metrics = run
    # The step overwrites its argument, so the run is repeated from a copy on the host.
    mesh = batch.image.sharding.mesh
    placed = jax.device_put(states[3], jax.NamedSharding(mesh, jax.P()))
    state, row = train_step(placed, batch)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), states[4])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(row), metrics[3])


def test_random_points_change_with_the_step_alone(run):
    metrics = run[3]
    # The first step has rate 0, so the parameters don't change.
    same = [metrics[0]["mask_prob/0"], metrics[1]["mask_prob/0"]]
    assert same == [1, 1]
    assert metrics[0]["loss/mask_0"] != metrics[1]["loss/mask_0"]
    np.testing.assert_allclose(
        metrics[0]["loss/mask_0"], metrics[1]["loss/mask_0"], rtol=0.3
    )


def test_frozen_blocks_have_no_part_in_the_step(run):
    _, _, (before, *_, after), metrics = repeat_step(3, frozen_blocks=1)
    frozen = set(before.params["vit"]) - {"block_1", "norm"}
    assert "block_0" in frozen and "position_embedding" in frozen
    for name in before.params["vit"]:
        same = jax.tree.map(
            np.array_equal, before.params["vit"][name], after.params["vit"][name]
        )
        # Weight decay changes all parameters that have a rate, except biases of 0.
        assert all(jax.tree.leaves(same)) == (name in frozen), name
    for moments in (after.opt_state.mu, after.opt_state.nu):
        assert set(moments["vit"]) == {"block_1", "norm"}
    # The first step's gradients equal those of the run that freezes nothing.
    _, _, whole_states, whole_metrics = run
    np.testing.assert_allclose(metrics[0]["loss"], whole_metrics[0]["loss"], rtol=1e-6)
    scale = whole_metrics[0]["grad_norm"] / 0.01 / 0.1  # of the clip and of Adam
    gradients = jax.tree.map(lambda leaf: scale * leaf, whole_states[1].opt_state.mu)
    squares = jax.tree.map(lambda leaf: np.sum(np.square(leaf)), gradients)
    for name in frozen:
        del squares["vit"][name]
    norm = np.sqrt(sum(jax.tree.leaves(squares)))
    np.testing.assert_allclose(metrics[0]["grad_norm"], norm, rtol=1e-4)
    assert norm < 0.999 * whole_metrics[0]["grad_norm"]


def test_each_part_gathers_the_blocks_weights_anew():
    """Gathered once for all parts, they would be whole on each device all the time."""
    mesh = create_mesh(MeshOptions(fsdp=2), devices=jax.devices()[:2])
    model, tx, train_step = create_step(mesh, accumulation=2)
    batch = jax.tree.map(
        lambda leaf: np.tile(leaf, (2, *[1] * (leaf.ndim - 1))), create_batch()
    )
    state = abstract_state(model, tx, mesh)
    program = train_step.lower(state, place_batch(batch, mesh)).compile().as_text()
    [once] = [text for text in program.split("\n\n") if text.startswith("ENTRY")]
    blocks = re.compile(r"= f32\[(16,3,2,8|2,8,16|16,32|32,16)\]\S* all-gather\(")
    assert blocks.search(program) and not blocks.search(once)

"""Training on eight devices, or in several passes, equals training on one at once."""

import functools

import jax
import numpy as np
import pytest

from eomt_jax.losses import matcher
from eomt_jax.losses.criterion import Criterion
from eomt_jax.models import variants
from eomt_jax.parallel.batch import place_batch
from eomt_jax.parallel.mesh import create_mesh
from eomt_jax.training import optimizer, schedules
from eomt_jax.training.state import create_state, param_shapes
from eomt_jax.training.step import make_train_step
from eomt_jax.types import Batch, Targets

BATCH, SIZE, TARGETS = 8, 32, 3
STEPS = 10
TOLERANCE = 1e-5
# Shape of the mesh, and parts that the batch is worked off in.
RUNS = {
    "data8": ((8, 1, 1), 1),
    "fsdp8": ((1, 8, 1), 1),
    "data2_fsdp2_tensor2": ((2, 2, 2), 1),
    "one_device_four_parts": ((1, 1, 1), 4),
    "data2_fsdp2_tensor2_two_parts": ((2, 2, 2), 2),
}

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("optimized_programs"),
    pytest.mark.skipif(jax.device_count() < 8, reason="wants eight devices"),
]


def create_model():
    return variants.create_eomt(
        "tiny",
        num_classes=5,
        num_queries=8,
        num_query_blocks=1,
        image_size=(SIZE, SIZE),
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        mlp_dim=64,
        num_register_tokens=1,
        # Weights from scratch leave the blocks almost without gradient.
        layer_scale_init=0.5,
    )


def create_batch():
    """Eight images whose valid targets spell their row in binary; the first has none."""
    rng = np.random.default_rng(0)
    rows = np.arange(BATCH)
    valid = (rows[:, None] >> np.arange(TARGETS)) % 2 == 1
    blocks = rng.integers(0, TARGETS + 1, (BATCH, 4, 4))
    id_map = np.kron(blocks, np.ones((SIZE // 4, SIZE // 4))).astype(np.uint8)
    id_map[~np.pad(valid, ((0, 0), (1, 0)))[rows[:, None, None], id_map]] = 0
    sizes = np.full((BATCH, 2), SIZE, np.int32)
    return Batch(
        image=rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8),
        targets=Targets(
            id_map=id_map,
            labels=np.where(valid, rng.integers(0, 5, valid.shape), 0).astype(np.int32),
            valid=valid,
            is_crowd=np.zeros_like(valid),
        ),
        valid=np.ones(BATCH, bool),
        example_index=rows.astype(np.int32),
        content_size=sizes,
        original_size=sizes,
    )


def row_of(valid):
    return int(valid @ 2 ** np.arange(TARGETS))


def train(shape, *, accumulation=1):
    """Ten steps: losses, clipped gradients of the first, parameters before and after.

    Also the rows that each call of the matcher on the host saw.
    """
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = create_mesh(*shape, devices=devices)
    model = create_model()
    options = {"total_steps": 4 * STEPS, "learning_rate": 0.05}
    options |= {"warmup_head": 0, "warmup_vit": 0}
    tx = optimizer.create_optimizer(
        param_shapes(model), eps=1e-3, clip_norm=0.1, **options
    )
    starts, ends = schedules.annealing_steps(STEPS, model.num_query_blocks)
    seen = set()

    def solve(costs, num_targets, valid):
        seen.add(tuple(row_of(np.asarray(row)) for row in valid))
        return solve_on_host(costs, num_targets, valid)

    solve_on_host = matcher.solve_on_host
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matcher, "solve_on_host", solve)
        step = make_train_step(
            model,
            Criterion(num_points=256),
            tx,
            mask_probs_fn=functools.partial(
                schedules.mask_probs, starts=starts, ends=ends
            ),
            learning_rate_fns=schedules.learning_rate_schedules(**options),
            mesh=mesh,
            accumulation=accumulation,
        )
        state = create_state(model, tx, jax.random.key(0), mesh)
        before = jax.device_get(state.params)
        batch = place_batch(create_batch(), mesh)
        losses, norms, gradients = [], [], None
        for _ in range(STEPS):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
            if gradients is None:
                # The first moment after one step is a tenth of the clipped gradient.
                gradients = jax.device_get(state.opt_state.mu)
    return {
        "losses": losses,
        "norms": norms,
        "gradients": gradients,
        "before": before,
        "after": jax.device_get(state.params),
        "seen": seen,
    }


@pytest.fixture(scope="module")
def one_device():
    return train((1, 1, 1))


@pytest.fixture(scope="module", params=RUNS)
def split_up(request):
    shape, accumulation = RUNS[request.param]
    return shape, accumulation, train(shape, accumulation=accumulation)


def leaves(*trees):
    paths = [
        optimizer.leaf_path(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(trees[0])
    ]
    return zip(paths, *(jax.tree.leaves(tree) for tree in trees))


def test_first_gradients_agree(one_device, split_up):
    *_, run = split_up
    for path, one, eight in leaves(one_device["gradients"], run["gradients"]):
        largest = np.abs(one).max()
        assert largest > 1e-8, path
        assert np.abs(one - eight).max() <= 1e-5 * largest, path


def test_ten_losses_and_gradient_norms_agree(one_device, split_up):
    *_, run = split_up
    np.testing.assert_allclose(run["losses"], one_device["losses"], rtol=TOLERANCE)
    np.testing.assert_allclose(run["norms"], one_device["norms"], rtol=1e-4)
    assert one_device["losses"][-1] < 0.9 * one_device["losses"][0]


def test_parameters_agree_after_ten_steps(one_device, split_up):
    *_, run = split_up
    trees = one_device["before"], one_device["after"], run["after"]
    for path, before, one, eight in leaves(*trees):
        tolerance = TOLERANCE * max(np.abs(one).max(), 0.1)
        assert np.abs(one - eight).max() <= tolerance, path
        assert np.abs(one - before).max() >= 100 * tolerance, path


def test_each_matching_callback_sees_its_own_shard_only(one_device, split_up):
    assert one_device["seen"] == {tuple(range(BATCH))}
    (data, fsdp, _), accumulation, run = split_up
    rows = BATCH // (data * fsdp * accumulation)
    shards = {tuple(range(i, i + rows)) for i in range(0, BATCH, rows)}
    assert run["seen"] == shards

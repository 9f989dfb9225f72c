"""Trains for ten small steps on a mesh, in this process or in several.

`python -m tests.meshes.mesh_run FOLDER NETWORK DATA FSDP TENSOR PARTS` writes the result
of `train` into FOLDER, one file for each process.
"""

import functools
import pathlib
import pickle
import sys
from unittest import mock

import jax
import numpy as np

from eomt_jax.losses import matcher
from eomt_jax.losses.criterion import Criterion
from eomt_jax.models import variants
from eomt_jax.models.mask2former.network import Mask2Former
from eomt_jax.parallel import processes
from eomt_jax.parallel.batch import place_batch
from eomt_jax.parallel.mesh import MeshOptions, create_mesh, reader_of, replicated
from eomt_jax.training import optimizer, schedules
from eomt_jax.training.state import create_state, param_shapes
from eomt_jax.training.step import make_train_step
from eomt_jax.types import Batch, Targets

BATCH, SIZE, TARGETS = 16, 32, 4
STEPS = 10


def create_model(network):
    """Returns an EoMT, or a Mask2Former of the maps with that name."""
    eomt = variants.create_eomt(
        "tiny",
        num_classes=5,
        num_queries=8,
        num_query_blocks=1,
        image_size=(SIZE, SIZE),
        patch_size=8 if network == "eomt" else 16,
        embed_dim=32,
        depth=2,
        num_heads=2,
        mlp_dim=64,
        num_register_tokens=1,
        # With the default of 1e-5 the blocks would have almost no gradient.
        layer_scale_init=0.5,
    )
    if network == "eomt":
        return eomt
    return Mask2Former(
        vit=eomt.vit,
        num_classes=5,
        num_queries=8,
        features=network,
        num_layers=3,
        dim=32,
        num_heads=2,
        mlp_dim=32,
        pixel_layers=1,
        pixel_mlp_dim=32,
        prior_dim=8,
    )


def create_batch():
    """Returns images whose valid targets are the bits of their row number."""
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


def train(shape, *, network="eomt", accumulation=1):
    """Trains; returns losses, the first gradients, parameters before and after.

    Parameters include batch statistics. The gradients are clipped. It also returns the rows that each call of the matcher on
    this process's host saw.
    """
    devices = jax.devices()[: int(np.prod(shape))]
    mesh = create_mesh(MeshOptions(*shape), devices=devices)
    model = create_model(network)
    options = optimizer.OptimizerOptions(
        learning_rate=0.05, warmup_head=0, warmup_vit=0, eps=1e-3, clip_norm=0.1
    )
    tx = optimizer.create_optimizer(
        model.parameter_groups(param_shapes(model)), options, total_steps=4 * STEPS
    )
    starts, ends = schedules.annealing_steps(STEPS, model.num_masked_layers)
    seen = set()

    def solve(costs, num_targets, valid):
        seen.add(tuple(row_of(np.asarray(row)) for row in valid))
        return solve_on_host(costs, num_targets, valid)

    fetch = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
    reader = reader_of(mesh)
    rows = BATCH // reader.count
    first = reader.index * rows
    solve_on_host = matcher.solve_on_host
    with mock.patch.object(matcher, "solve_on_host", solve):
        step = make_train_step(
            model,
            Criterion(num_points=256),
            tx,
            mask_probs_fn=functools.partial(
                schedules.mask_probs, starts=starts, ends=ends, power=0.9
            ),
            learning_rate_fns=schedules.learning_rate_schedules(
                options, total_steps=4 * STEPS
            ),
            mesh=mesh,
            accumulation=accumulation,
        )
        state = create_state(model, tx, jax.random.key(0), mesh)
        before = jax.device_get(fetch(state.network_params))
        own = jax.tree.map(lambda leaf: leaf[first : first + rows], create_batch())
        batch = place_batch(own, mesh)
        losses, norms, gradients = [], [], None
        for _ in range(STEPS):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
            if gradients is None:
                # The first moment after one step is a tenth of the clipped gradient.
                gradients = jax.device_get(fetch(state.opt_state.mu))
    return {
        "losses": losses,
        "norms": norms,
        "gradients": gradients,
        "before": before,
        "after": jax.device_get(fetch(state.network_params)),
        "seen": seen,
    }


def main():
    folder, network, *shape, accumulation = sys.argv[1:]
    processes.initialize()
    result = train(
        tuple(map(int, shape)), network=network, accumulation=int(accumulation)
    )
    path = pathlib.Path(folder) / f"{jax.process_index()}.pickle"
    path.write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main()

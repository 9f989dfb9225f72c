"""AdamW with a rate for each parameter equals torch.optim.AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eomt_jax.models.variants import create_eomt
from eomt_jax.training import optimizer
from eomt_jax.trees import leaf_path

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TOTAL, HEAD, VIT = 12, 2, 3
SHAPES = {
    "vit": {
        "patch_embedding": {"bias": (3,)},
        "block_0": {"norm1": {"scale": (3,)}},
        "block_1": {"mlp": {"up": {"kernel": (3, 4)}}},
        "norm": {"bias": (3,)},
    },
    "queries": (2, 3),
    "class_head": {"bias": (5,)},
}
FACTORS = {
    "vit/patch_embedding/bias": 0.8,
    "vit/block_0/norm1/scale": 0.8,
    "vit/block_1/mlp/up/kernel": 1.0,
    "vit/norm/bias": 1.0,
    "queries": 1.0,
    "class_head/bias": 1.0,
}


def published_rate(path, step):
    """Returns the rate of the release's two-stage schedule, written out."""
    if not path.startswith("vit/"):
        if step < HEAD:
            return 1e-2 * step / HEAD
        return 1e-2 * (1 - (step - HEAD) / (TOTAL - HEAD)) ** 0.9
    if step < HEAD:
        return 0.0
    if step < HEAD + VIT:
        return 1e-2 * (step - HEAD) / VIT
    return 1e-2 * (1 - (step - HEAD - VIT) / (TOTAL - HEAD - VIT)) ** 0.9


def test_twelve_steps_equal_torch_adamw():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda shape: rng.standard_normal(shape, np.float32),
        SHAPES,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    paths = [leaf_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    theirs = [torch.tensor(leaf) for leaf in jax.tree.leaves(params)]
    adamw = torch.optim.AdamW(
        [{"params": [leaf], "lr": 0.0} for leaf in theirs],
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.05,
    )
    model = create_eomt(
        "tiny", num_classes=1, num_queries=1, image_size=(16, 16), depth=2
    )
    tx = optimizer.create_optimizer(
        model.parameter_groups(params),
        optimizer.OptimizerOptions(
            learning_rate=1e-2, warmup_head=HEAD, warmup_vit=VIT, published_steps=0
        ),
        total_steps=TOTAL,
    )
    ours, state, update = jax.tree.map(jnp.asarray, params), None, jax.jit(tx.update)
    start, state = ours, tx.init(ours)
    for step in range(TOTAL):
        # Gradients of some steps are below the clip's norm, most above it.
        scale = [1e-4, 1.0, 3.0][step % 3]
        grads = jax.tree.map(
            lambda leaf, scale=scale: rng.normal(0, scale, leaf.shape), params
        )
        grads = jax.tree.map(np.float32, grads)
        updates, state = update(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        for group, path, leaf, grad in zip(
            adamw.param_groups, paths, theirs, jax.tree.leaves(grads)
        ):
            group["lr"] = published_rate(path, step) * FACTORS[path]
            leaf.grad = torch.tensor(grad)
        torch.nn.utils.clip_grad_norm_(theirs, 0.01)
        adamw.step()
        for path, mine, leaf in zip(paths, jax.tree.leaves(ours), theirs):
            np.testing.assert_allclose(
                mine, leaf.numpy(), rtol=1e-5, atol=1e-6, err_msg=f"{path} @ {step}"
            )
    for path, mine, first in zip(paths, jax.tree.leaves(ours), jax.tree.leaves(start)):
        assert np.abs(mine - first).max() > 1e-3, path

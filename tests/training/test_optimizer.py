import re

import jax
import numpy as np
import pytest

from eomt_jax.models import variants
from eomt_jax.training import optimizer
from eomt_jax.training.state import param_shapes
from eomt_jax.trees import leaves_by_path

T = 88_692
DEFAULTS = optimizer.OptimizerOptions()


@pytest.fixture(scope="module")
def large_groups():
    model = variants.create_eomt(
        "large", num_classes=133, num_queries=200, image_size=(640, 640)
    )
    return model.parameter_groups(param_shapes(model))


@pytest.fixture(scope="module")
def small_model():
    return variants.create_eomt(
        "tiny",
        num_classes=3,
        num_queries=4,
        image_size=(32, 32),
        embed_dim=8,
        depth=3,
        num_heads=2,
        mlp_dim=16,
    )


@pytest.fixture(scope="module")
def groups(small_model):
    return small_model.parameter_groups(param_shapes(small_model))


@pytest.fixture(scope="module")
def small_model_params(small_model):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32),
        param_shapes(small_model),
    )


def test_every_parameter_has_the_rate_of_its_group(large_groups):
    # After both warm-ups the groups still differ, since each falls from its own peak.
    step = 30_000
    head = 1e-4 * (1 - (step - 500) / (T - 500)) ** 0.9
    vit = 1e-4 * (1 - (step - 1500) / (T - 1500)) ** 0.9
    rates = leaves_by_path(
        optimizer.learning_rates(large_groups, step, DEFAULTS, total_steps=T)
    )
    assert len(rates) == len(jax.tree.leaves(large_groups.tree))
    expected = {}
    for path in rates:
        first, _, rest = path.partition("/")
        if first != "vit":
            expected[path] = head
        elif rest.startswith("norm/"):
            expected[path] = vit
        elif rest.startswith("block_"):
            expected[path] = vit * 0.8 ** (23 - int(rest.split("/")[0][6:]))
        else:
            expected[path] = vit * 0.8**23
    for path, rate in rates.items():
        np.testing.assert_allclose(rate, expected[path], rtol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    ("path", "at_500", "at_1000", "at_1500"),
    [
        ("queries", 1e-4, 9.9489701e-5, 9.8979115e-5),
        ("class_head/bias", 1e-4, 9.9489701e-5, 9.8979115e-5),
        ("upscale/block_1/norm/scale", 1e-4, 9.9489701e-5, 9.8979115e-5),
        ("vit/norm/scale", 0.0, 5e-5, 1e-4),
        ("vit/block_23/layer_scale1", 0.0, 5e-5, 1e-4),
        ("vit/block_22/mlp/up/kernel", 0.0, 4e-5, 8e-5),
        ("vit/block_0/norm1/bias", 0.0, 2.951479e-7, 5.902958e-7),
        ("vit/patch_embedding/kernel", 0.0, 2.951479e-7, 5.902958e-7),
        ("vit/position_embedding", 0.0, 2.951479e-7, 5.902958e-7),
        ("vit/class_token", 0.0, 2.951479e-7, 5.902958e-7),
        ("vit/register_tokens", 0.0, 2.951479e-7, 5.902958e-7),
    ],
)
def test_rates_at_the_warmups_ends(large_groups, path, at_500, at_1000, at_1500):
    rates = [
        leaves_by_path(
            optimizer.learning_rates(large_groups, step, DEFAULTS, total_steps=T)
        )[path]
        for step in (0, 500, 1000, 1500)
    ]
    np.testing.assert_allclose(rates, [0.0, at_500, at_1000, at_1500], rtol=2e-6)


def test_undecayed_blocks_have_the_full_rate_and_move_no_other(large_groups):
    plain = leaves_by_path(optimizer.rate_rules(large_groups, layer_decay=0.8))
    rules = optimizer.rate_rules(large_groups, layer_decay=0.8, undecayed_blocks=4)
    rules = leaves_by_path(rules)
    assert rules["vit/block_20/norm1/bias"].multiplier == 1.0
    assert rules["vit/block_19/norm1/bias"].multiplier == 0.8**4
    for path, rule in rules.items():
        block = re.match(r"vit/block_(\d+)/", path)
        if block and int(block[1]) >= 20:
            assert rule == optimizer.RateRule(in_backbone=True, multiplier=1.0)
        else:
            assert rule == plain[path]


@pytest.mark.parametrize("undecayed_blocks", [4, -1])
def test_more_undecayed_blocks_than_there_are_raise(groups, undecayed_blocks):
    with pytest.raises(
        ValueError, match=rf"{undecayed_blocks}: the backbone has 3 blocks"
    ):
        optimizer.create_optimizer(
            groups,
            optimizer.OptimizerOptions(undecayed_blocks=undecayed_blocks),
            total_steps=T,
        )


def test_clip_takes_all_gradients_and_moments_move_at_rate_zero(
    groups, small_model_params
):
    params = small_model_params
    tx = optimizer.create_optimizer(groups, total_steps=T)
    grads = jax.tree.map(lambda leaf: 3.0 * leaf, params)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grads)))
    update_fn = jax.jit(tx.update)
    updates, state = update_fn(grads, jax.jit(tx.init)(params), params)
    for path, update in leaves_by_path(updates).items():
        assert not np.any(update), path
    for path, moment in leaves_by_path(state.mu).items():
        want = 0.1 * 0.01 / norm * leaves_by_path(grads)[path]
        np.testing.assert_allclose(moment, want, rtol=1e-5, err_msg=path)
    assert state.count == 1
    # One step later the heads change and the ViT doesn't yet.
    updates, _ = update_fn(grads, state, params)
    for path, update in leaves_by_path(updates).items():
        assert np.any(update) == (not path.startswith("vit/")), path


def test_weight_decay_reaches_every_parameter_at_its_own_rate(
    groups, small_model_params
):
    params = small_model_params
    tx = optimizer.create_optimizer(
        groups,
        optimizer.OptimizerOptions(warmup_head=0, warmup_vit=0, weight_decay=0.5),
        total_steps=100,
    )
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, jax.jit(tx.init)(params), params)
    for path, update in leaves_by_path(updates).items():
        rate = 1e-4
        if path.startswith("vit/") and not path.startswith("vit/norm"):
            block = int(path[10]) if path.startswith("vit/block_") else 0
            rate *= 0.8 ** (2 - block)
        want = -rate * 0.5 * leaves_by_path(params)[path]
        np.testing.assert_allclose(update, want, rtol=1e-5, err_msg=path)


def test_optimizer_has_one_counter(groups, small_model_params):
    tx = optimizer.create_optimizer(groups, total_steps=T)
    leaves = jax.tree.leaves(jax.eval_shape(tx.init, small_model_params))
    assert sum(leaf.shape == () for leaf in leaves) == 1


def test_update_without_parameters_raises(groups, small_model_params):
    tx = optimizer.create_optimizer(groups, total_steps=T)
    with pytest.raises(ValueError, match="weight decay"):
        tx.update(small_model_params, jax.eval_shape(tx.init, small_model_params))


@pytest.mark.parametrize(
    ("frozen_blocks", "of_vit"),
    [
        (1, {"block_1", "block_2", "norm"}),
        (3, {"norm"}),
        (-1, set()),
    ],
)
def test_frozen_parameters_have_no_moments_norm_or_decay(
    groups, small_model_params, frozen_blocks, of_vit
):
    params = small_model_params
    options = optimizer.OptimizerOptions(
        warmup_head=0, warmup_vit=0, frozen_blocks=frozen_blocks
    )
    tx = optimizer.create_optimizer(groups, options, total_steps=100)
    grads = optimizer.trainable(params, groups, frozen_blocks)
    assert set(grads.get("vit", {})) == of_vit
    assert set(grads) - {"vit"} == set(params) - {"vit"}
    updates, state = jax.jit(tx.update)(grads, jax.jit(tx.init)(params), params)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grads)))
    clipped = {path: 0.01 / norm * leaf for path, leaf in leaves_by_path(grads).items()}
    for path, moment in leaves_by_path(state.mu).items():
        np.testing.assert_allclose(moment, 0.1 * clipped[path], rtol=1e-5, err_msg=path)
    # Each of the others has the rate that it has when nothing is frozen.
    rates = optimizer.learning_rates(groups, 0, options, total_steps=100)
    rates = leaves_by_path(optimizer.trainable(rates, groups, frozen_blocks))
    updates = leaves_by_path(updates)
    assert updates.keys() == rates.keys() == leaves_by_path(grads).keys()
    for path, update in updates.items():
        param = leaves_by_path(params)[path]
        step = clipped[path] / (np.abs(clipped[path]) + 1e-8)
        want = -rates[path] * (step + 0.05 * param)
        np.testing.assert_allclose(update, want, rtol=1e-4, err_msg=path)


@pytest.mark.parametrize("frozen_blocks", [0, 2, -1])
def test_merge_puts_back_what_is_trained(groups, small_model_params, frozen_blocks):
    params = small_model_params
    part = optimizer.trainable(params, groups, frozen_blocks)
    doubled = optimizer.merge(params, jax.tree.map(lambda leaf: 2 * leaf, part))
    assert jax.tree.structure(doubled) == jax.tree.structure(params)
    changed = {
        p
        for p, leaf in leaves_by_path(doubled).items()
        if leaf is not leaves_by_path(params)[p]
    }
    assert changed == leaves_by_path(part).keys()


@pytest.mark.parametrize("frozen_blocks", [4, -2])
def test_more_frozen_blocks_than_there_are_raise(groups, frozen_blocks):
    options = optimizer.OptimizerOptions(frozen_blocks=frozen_blocks)
    with pytest.raises(
        ValueError, match=rf"{frozen_blocks}: the backbone has 3 blocks"
    ):
        optimizer.create_optimizer(groups, options, total_steps=T)

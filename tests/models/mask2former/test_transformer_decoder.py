"""The transformer decoder's own rules; tests/parity compares its numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from eomt_jax.models.mask2former.transformer_decoder import (
    DECODER_RULES,
    TransformerDecoder,
    pixels_inside,
)
from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.parallel.partition import param_shardings

BATCH, QUERIES, LAYERS, DIM = 2, 4, 3, 8
SIZES = (1, 2), (2, 4), (4, 8)


def decoder(**overrides) -> TransformerDecoder:
    fields = {"num_layers": LAYERS, "dim": DIM, "num_heads": 2, "mlp_dim": 16}
    return TransformerDecoder(3, QUERIES, **{**fields, **overrides})


def random(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope="module")
def maps():
    levels = [random(i, BATCH, *size, DIM) for i, size in enumerate(SIZES)]
    return levels, random(3, BATCH, 8, 16, DIM)


@pytest.fixture(scope="module")
def params(maps):
    init = jax.jit(lambda rng: decoder().init(rng, *maps, masked=None))
    return init(jax.random.key(0))["params"]


@pytest.fixture(scope="module")
def half_masks(params, maps):
    """Returns parameters and features whose masks are all the image's left half."""
    head = params["mask_head"] | {
        "layer_2": {"kernel": jnp.zeros((DIM, DIM)), "bias": jnp.ones(DIM)}
    }
    features = jnp.ones_like(maps[1]).at[:, :, 8:].set(-1.0)
    return params | {"mask_head": head}, features


RUN = jax.jit(decoder().apply, static_argnames="predict_all")


def apply(params, levels, features, masked, **kwargs):
    return RUN({"params": params}, levels, features, masked=masked, **kwargs)


def everywhere(value: bool) -> jax.Array:
    return jnp.full((LAYERS, BATCH, QUERIES), value)


def change_right_half(levels):
    return [level.at[:, :, level.shape[2] // 2 :].add(1.0) for level in levels]


def test_published_decoder_has_the_parameters_of_mask2former():
    levels = [jax.ShapeDtypeStruct((1, n, n, 256), jnp.float32) for n in (20, 40, 80)]
    features = jax.ShapeDtypeStruct((1, 160, 160, 256), jnp.float32)

    def init(levels, features):
        return TransformerDecoder(133, 200).init(
            jax.random.key(0), levels, features, masked=None
        )

    shapes = jax.eval_shape(init, levels, features)["params"]
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # transformers counts the class head apart.
    assert total == 14_509_824 + 257 * 134


def test_a_masked_query_sees_the_inside_of_its_mask_alone(half_masks, maps):
    params, features = half_masks
    changed = change_right_half(maps[0])
    masked = everywhere(True).at[:, 1].set(False)
    before = apply(params, maps[0], features, masked).class_logits[-1]
    after = apply(params, changed, features, masked).class_logits[-1]
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 1e-3


def test_each_layer_and_query_is_masked_by_itself(half_masks, maps):
    params, features = half_masks
    # Queries exchange what they saw only in the self-attention that follows, so that
    # the last layer alone is open for one query, and one query differs after it alone.
    opened = everywhere(True).at[-1, 0, 2].set(False)
    masked = apply(params, maps[0], features, everywhere(True)).class_logits
    found = apply(params, maps[0], features, opened).class_logits
    for layer in range(LAYERS):
        np.testing.assert_array_equal(found[layer], masked[layer])
    assert np.abs(found[-1] - masked[-1])[0].max() > 1e-4
    np.testing.assert_array_equal(found[-1][1], masked[-1][1])


def test_a_query_with_an_empty_mask_is_opened(half_masks, maps):
    params, features = half_masks
    empty, full = -jnp.ones_like(features), jnp.ones_like(features)
    for features in (empty, full):
        masked = apply(params, maps[0], features, everywhere(True))
        open_ = apply(params, maps[0], features, everywhere(False))
        for found, expected in zip(masked.class_logits, open_.class_logits):
            np.testing.assert_array_equal(found, expected)


def test_a_logit_of_zero_is_inside_the_mask():
    logits = jnp.array([[[[0.0, -1e-3], [2.0, -3.0]]]])
    found = pixels_inside(logits, (2, 2))
    np.testing.assert_array_equal(found, [[[True, False, True, False]]])


def test_without_masks_it_predicts_once_as_if_all_were_open(params, maps):
    plain = apply(params, *maps, None)
    open_ = apply(params, *maps, everywhere(False))
    assert len(plain.mask_logits) == len(plain.class_logits) == 1
    assert len(open_.mask_logits) == len(open_.class_logits) == LAYERS + 1
    np.testing.assert_allclose(
        plain.mask_logits[0], open_.mask_logits[-1], atol=1e-5, rtol=1e-5
    )


def test_only_the_last_prediction_is_returned_on_request(params, maps):
    every = apply(params, *maps, everywhere(True))
    last = apply(params, *maps, everywhere(True), predict_all=False)
    assert len(last.mask_logits) == len(last.class_logits) == 1
    np.testing.assert_allclose(last.mask_logits[0], every.mask_logits[-1], atol=1e-6)
    np.testing.assert_allclose(last.class_logits[0], every.class_logits[-1], atol=1e-6)


def test_a_single_level_of_another_width_is_projected(maps):
    levels = [maps[0][2][..., :6]]

    def init():
        return decoder().init(jax.random.key(0), levels, maps[1], masked=None)

    shapes = jax.eval_shape(init)["params"]
    assert shapes["projection_0"]["kernel"].shape == (6, DIM)
    assert shapes["level_embedding"].shape == (1, DIM)


def test_bfloat16_computes_near_float32_and_returns_float32(params, maps):
    expected = apply(params, *maps, everywhere(False))
    found = jax.jit(decoder(dtype=jnp.bfloat16).apply)(
        {"params": params}, *maps, masked=everywhere(False)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert a.dtype == jnp.float32
        scale = float(jnp.abs(b).max())
        assert 1e-5 * scale < np.abs(a - b).max() < 0.05 * scale


def test_remat_changes_no_gradient():
    # XLA takes ten times as long to compile gradients of fewer queries than this.
    fields = {"num_layers": 2, "dim": 32, "num_heads": 2, "mlp_dim": 16}
    models = [TransformerDecoder(3, 64, remat=r, **fields) for r in (False, True)]
    levels = [random(i, 2, *size, 32) for i, size in enumerate(SIZES)]
    maps = levels, random(3, 2, 8, 16, 32)
    masked = jnp.ones((2, 2, 64), bool)
    init = jax.jit(lambda rng: models[0].init(rng, *maps, masked=masked))
    params = init(jax.random.key(0))

    def gradient(model):
        def loss(params):
            outputs = model.apply(params, *maps, masked=masked)
            return sum(jnp.square(x).mean() for x in jax.tree.leaves(outputs))

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4),
        *map(gradient, models),
    )


def test_heads_and_feed_forward_are_split_over_the_tensor_axis(params):
    mesh = create_mesh(MeshOptions(2, 2, 2))
    found = param_shardings(params, mesh, DECODER_RULES)
    layer = found["layer_2"]
    assert layer["cross_attention"]["key"]["kernel"].spec == P("fsdp", "tensor")
    assert layer["self_attention"]["query"]["bias"].spec == P("tensor")
    assert layer["self_attention"]["out"]["kernel"].spec == P("tensor", "fsdp")
    assert layer["mlp"]["down"]["kernel"].spec == P("tensor", "fsdp")
    assert found["queries"].spec == P(None, "fsdp")


def test_heads_that_do_not_divide_the_width_are_refused(maps):
    with pytest.raises(ValueError, match="num_heads 3 does not divide .* dim 8"):
        decoder(num_heads=3).init(jax.random.key(0), *maps, masked=None)

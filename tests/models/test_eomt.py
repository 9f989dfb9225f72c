"""EoMT's own properties; tests/parity compares it with another implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models import eomt
from eomt_jax.models.eomt import EoMT
from eomt_jax.models.kernels.xla_attention import attend
from eomt_jax.models.vit import ViT


def small_model(**overrides) -> EoMT:
    vit = ViT(
        embed_dim=16,
        depth=3,
        num_heads=2,
        mlp_dim=32,
        patch_size=8,
        image_size=(32, 48),
        layer_scale_init=1.0,
        **overrides,
    )
    return EoMT(vit=vit, num_classes=3, num_queries=5, num_query_blocks=2)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def params(images):
    return jax.jit(small_model().init)(jax.random.key(0), images)["params"]


def apply(model, params, images):
    return jax.jit(model.apply)({"params": params}, images)


def test_outputs_have_a_quarter_of_a_non_square_image(params, images):
    outputs = apply(small_model(), params, images)
    assert [m.shape for m in outputs.mask_logits] == [(2, 5, 8, 12)]
    assert [c.shape for c in outputs.class_logits] == [(2, 5, 4)]


def test_masked_layers_are_named_by_the_blocks_of_the_backbone():
    assert small_model().masked_layer_names == ("block 2", "block 3")


def test_attention_maps_of_masked_and_other_blocks(params, images):
    model = small_model()
    # Without queries and keys, all tokens that aren't masked have the same weight.
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if "qkv" in jax.tree_util.keystr(path) else x, params
    )
    outputs, collected = jax.jit(
        lambda params: model.apply(
            {"params": params},
            images,
            mask_probs=jnp.array([1.0, 0.0]),
            rngs={"mask": jax.random.key(0)},
            mutable=["intermediates"],
        )
    )(params)
    masked, unmasked = model.attention_maps(collected["intermediates"], (32, 48))
    is_open = eomt.patches_inside(outputs.mask_logits[0], (4, 6)).reshape(2, 5, 4, 6)
    assert 0 < is_open.mean() < 1
    # There are 5 queries and 5 prefix tokens beside the 24 patches.
    expected = is_open / (10 + is_open.sum((2, 3), keepdims=True))
    np.testing.assert_allclose(masked, expected, rtol=1e-5)
    np.testing.assert_allclose(unmasked, np.full((2, 5, 4, 6), 1 / 34), rtol=1e-5)


def test_bfloat16_computes_near_float32_and_returns_float32(params, images):
    expected = apply(small_model(), params, images)
    found = apply(small_model(dtype=jnp.bfloat16), params, images)
    assert found.mask_logits[0].dtype == found.class_logits[0].dtype == jnp.float32
    scale = float(jnp.abs(expected.mask_logits[0]).max())
    error = np.abs(found.mask_logits[0] - expected.mask_logits[0]).max()
    assert 1e-5 * scale < error < 0.05 * scale


def test_remat_changes_no_gradient(params, images):
    def gradient(model):
        def loss(params):
            outputs = model.apply(
                {"params": params},
                images,
                mask_probs=jnp.full(2, 0.5),
                rngs={"mask": jax.random.key(1)},
            )
            return sum(jnp.square(m).mean() for m in outputs.mask_logits)

        return jax.jit(jax.grad(loss))(params)

    expected, found = gradient(small_model()), gradient(small_model(remat=True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4),
        found,
        expected,
    )


@pytest.mark.parametrize("remat", [False, True])
def test_remat_keeps_no_pixel_features_for_the_backward_pass(params, images, remat):
    model = small_model(remat=remat)

    def residuals(params):
        mask_probs, rngs = jnp.full(2, 0.5), {"mask": jax.random.key(1)}
        _, vjp = jax.vjp(
            lambda p: model.apply({"params": p}, images, mask_probs, rngs=rngs), params
        )
        return vjp

    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(residuals, params))]
    assert ((2, 8, 12, 16) in shapes) is not remat


@pytest.mark.parametrize("remat", [False, True])
def test_with_remat_predictions_before_the_last_go_backward_in_turn(
    monkeypatch, params, images, remat
):
    """The blocks' gradient is for the tokens from which the prediction was made."""
    pairs = []

    def in_turn(x, prediction):
        pairs.append((x.shape, prediction[0].shape))
        return x, prediction

    monkeypatch.setattr(eomt, "backward_in_turn", in_turn)
    model = small_model(remat=remat)
    jax.eval_shape(
        lambda p: model.apply(
            {"params": p}, images, jnp.ones(2), rngs={"mask": jax.random.key(1)}
        ),
        params,
    )
    assert pairs == [((2, 5 + 5 + 24, 16), (2, 5, 8, 12))] * (2 if remat else 0)


def test_masked_inference_makes_the_last_prediction_of_masked_training(params, images):
    masked = small_model().with_masked_inference(True)
    found = apply(masked, params, images)
    everywhere = jax.jit(masked.apply)(
        {"params": params}, images, jnp.ones(2), rngs={"mask": jax.random.key(0)}
    )
    assert len(found.mask_logits) == len(found.class_logits) == 1
    np.testing.assert_array_equal(found.mask_logits[0], everywhere.mask_logits[-1])
    unmasked = apply(small_model(), params, images)
    assert np.abs(found.mask_logits[0] - unmasked.mask_logits[0]).max() > 1e-3


def test_masking_without_an_rng_says_what_to_pass(params, images):
    with pytest.raises(ValueError, match=r'rngs=\{"mask": key\}'):
        small_model().apply({"params": params}, images, mask_probs=jnp.ones(2))


def test_images_of_another_size_are_refused(params):
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\(32, 48\).*got \(32, 32\)"):
        small_model().apply({"params": params}, images)


def test_attention_ignores_what_is_closed(rng):
    query, key, value = jax.random.normal(rng, (3, 1, 2, 2, 4))
    mask = jnp.array([[[True, False], [True, True]]])
    out = attend(query, key, value, mask)
    np.testing.assert_allclose(out[:, 0], value[:, 0], atol=1e-6)
    np.testing.assert_allclose(
        out[:, 1], attend(query, key, value)[:, 1], atol=1e-6, rtol=1e-6
    )

"""Rotary positions equal their definition, and attention depends on distances."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models.rotary import patch_rotation, rotate_patches
from eomt_jax.models.vit import ViT


def tiny_vit(**fields) -> ViT:
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 16}
    fields = {"positions": "rotary", "qkv_bias": "no_key", **fields}
    return ViT(**sizes, image_size=(32, 48), layer_scale_init=1.0, **fields)


def test_angles_are_those_of_the_definition():
    # 1 × 2 patches have y = 0 and x = ∓1/2; both y and x have frequencies 1 and 1/10.
    rotation = patch_rotation((1, 2), head_dim=8, theta=100.0)
    x = 2 * math.pi * 0.5
    half = [0, 0, x, x / 10]
    angles = np.array([[-a for a in half * 2], half * 2])
    np.testing.assert_allclose(rotation.cos, np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(rotation.sin, np.sin(angles), atol=1e-6)


def test_scale_stretches_the_coordinates():
    one = patch_rotation((3, 5), head_dim=4, theta=100.0)
    two = patch_rotation((3, 5), head_dim=4, theta=100.0, scale=2.0)
    np.testing.assert_allclose(two.sin, 2 * one.sin * one.cos, atol=1e-5)


def test_scores_depend_on_the_distance_of_patches_alone(rng):
    query, key = jax.random.normal(rng, (2, 8))
    rotation = patch_rotation((4, 4), head_dim=8, theta=100.0)

    def at_all_patches(x):
        return rotate_patches(jnp.tile(x, (1, 16, 1, 1)), rotation, num_tokens=16)[
            0, :, 0
        ]

    scores = at_all_patches(query) @ at_all_patches(key).T
    scores = scores.reshape(4, 4, 4, 4)
    np.testing.assert_allclose(scores[0, 0, 1, 2], scores[2, 1, 3, 3], rtol=1e-4)
    np.testing.assert_allclose(scores[3, 2, 0, 0], scores[3, 3, 0, 1], rtol=1e-4)
    assert abs(scores[0, 0, 1, 2] - scores[0, 0, 2, 1]) > 1e-2


def test_only_the_last_tokens_are_turned(rng):
    x = jax.random.normal(rng, (2, 3 + 6, 2, 4))
    turned = rotate_patches(
        x, patch_rotation((2, 3), head_dim=4, theta=100.0), num_tokens=x.shape[1]
    )
    np.testing.assert_array_equal(turned[:, :3], x[:, :3])
    assert (jnp.abs(turned - x)[:, 3:].max(axis=(0, 2, 3)) > 1e-2).all()
    norms = [jnp.linalg.norm(y, axis=-1) for y in (turned, x)]
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_rotary_vit_sees_where_patches_lie_and_has_no_parameter_for_it(rng):
    images = jax.random.randint(rng, (1, 32, 48, 3), 0, 256).astype(jnp.uint8)
    swapped = jnp.concatenate([images[:, :, 16:], images[:, :, :16]], axis=2)
    vit = tiny_vit()
    params = jax.tree.map(
        lambda x: jax.random.normal(rng, x.shape) * 0.3, vit.init(rng, images)["params"]
    )
    assert "position_embedding" not in params
    tokens = [vit.apply({"params": params}, x)[:, 0] for x in (images, swapped)]
    assert jnp.abs(tokens[0] - tokens[1]).max() > 1e-3


def test_training_stretches_positions_by_a_random_factor(rng):
    vit = tiny_vit(num_register_tokens=0)
    images = jnp.zeros((1, 32, 48, 3), jnp.uint8).at[:, :16].set(200)
    params = jax.tree.map(
        lambda x: jax.random.normal(rng, x.shape) * 0.3, vit.init(rng, images)["params"]
    )

    def tokens(vit, **options):
        return vit.apply({"params": params}, images, **options)

    drawn = [tokens(vit, rngs={"positions": jax.random.key(i)}) for i in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert jnp.abs(drawn[0] - drawn[2]).max() > 1e-4
    never = vit.clone(rope_rescale=1.0)
    np.testing.assert_allclose(
        tokens(never, rngs={"positions": rng}), tokens(vit), atol=1e-5
    )


@pytest.mark.parametrize(
    ("qkv_bias", "shape"), [("all", (3, 2, 8)), ("no_key", (2, 2, 8)), ("none", None)]
)
def test_biases_of_query_key_and_value(qkv_bias, shape, rng):
    images = jnp.zeros((1, 32, 48, 3), jnp.uint8)
    params = tiny_vit(qkv_bias=qkv_bias).init(rng, images)["params"]
    qkv = params["block_0"]["attention"]["qkv"]
    assert qkv["kernel"].shape == (16, 3, 2, 8)
    assert (qkv["bias"].shape if shape else None) == shape
    assert ("bias" in qkv) == (shape is not None)


def test_no_key_is_all_with_a_zero_key_bias(rng):
    images = jax.random.randint(rng, (1, 32, 48, 3), 0, 256).astype(jnp.uint8)
    without, whole = tiny_vit(), tiny_vit(qkv_bias="all")
    params = jax.tree.map(
        lambda x: jax.random.normal(rng, x.shape) * 0.3,
        without.init(rng, images)["params"],
    )

    def with_key_bias(path, x):
        if jax.tree_util.keystr(path).endswith("['qkv']['bias']"):
            return jnp.stack([x[0], jnp.zeros_like(x[0]), x[1]])
        return x

    widened = jax.tree_util.tree_map_with_path(with_key_bias, params)
    np.testing.assert_allclose(
        without.apply({"params": params}, images),
        whole.apply({"params": widened}, images),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("field", "value"), [("positions", "sinus"), ("qkv_bias", "key")]
)
def test_unknown_choices_are_refused(field, value, rng):
    images = jnp.zeros((1, 32, 48, 3), jnp.uint8)
    with pytest.raises(ValueError, match=rf"{field} = '{value}': there are"):
        tiny_vit(**{field: value}).init(rng, images)

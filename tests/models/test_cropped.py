"""Images without padding equal whole images without the padding's tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models.eomt import EoMT
from eomt_jax.models.rotary import Rotation
from eomt_jax.models.vit import ViT

SIDE, PATCH = 48, 8
NUM_PATCHES = SIDE // PATCH


def small_model(**fields) -> EoMT:
    vit = ViT(
        embed_dim=16,
        depth=3,
        num_heads=2,
        mlp_dim=32,
        patch_size=PATCH,
        image_size=(SIDE, SIDE),
        layer_scale_init=1.0,
        **fields,
    )
    return EoMT(vit=vit, num_classes=3, num_queries=5, num_query_blocks=2)


def random_params(model):
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes
    )


def without_padding_tokens(model, params, images, rows, columns):
    """Returns logits from the tokens of whole images, without those of padding."""
    model = model.bind({"params": params})
    vit = model.vit

    def keep(patches):
        grid = patches.reshape(*patches.shape[:-2], NUM_PATCHES, NUM_PATCHES, -1)
        kept = grid[..., :rows, :columns, :]
        return kept.reshape(*patches.shape[:-2], rows * columns, -1)

    tokens, rotation = vit.embed(images), vit.rotation()
    if rotation is not None:
        rotation = Rotation(*map(keep, rotation))
    prefix = tokens[:, : vit.num_prefix_tokens]
    patches = keep(tokens[:, vit.num_prefix_tokens :])
    queries = jnp.broadcast_to(model.queries, (len(images), *model.queries.shape))
    num_plain = vit.depth - model.num_query_blocks
    x = jnp.concatenate([prefix, patches], axis=1)
    for block in vit.blocks[:num_plain]:
        x = block(x, None, rotation)
    x = jnp.concatenate([queries, x], axis=1)
    for block in vit.blocks[num_plain:]:
        x = block(x, None, rotation)
    x = vit.norm(x)
    queries, patches = x[:, :5], x[:, -rows * columns :]
    features = model.upscale(patches.reshape(len(x), rows, columns, -1)).normalized()
    masks = jnp.einsum("bqd,bhwd->bqhw", model.mask_head(queries), features)
    return masks, model.class_head(queries)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (6, 3), (6, 6)])
def test_cropped_equals_the_network_without_the_paddings_tokens(
    positions, rows, columns
):
    model = small_model(positions=positions)
    params = random_params(model)
    height, width = rows * PATCH, columns * PATCH
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    part = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), np.uint8)
    images[:, :height, :width] = part
    masks, classes = without_padding_tokens(model, params, images, rows, columns)
    found = model.apply({"params": params}, part, cropped=True)
    assert found.mask_logits[-1].shape == (2, 5, height // 4, width // 4)
    np.testing.assert_allclose(found.mask_logits[-1], masks, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found.class_logits[-1], classes, atol=1e-5, rtol=1e-5)
    whole = model.apply({"params": params}, images)
    if (rows, columns) == (6, 6):
        np.testing.assert_array_equal(found.mask_logits[-1], whole.mask_logits[-1])
    else:
        difference = jnp.abs(found.class_logits[-1] - whole.class_logits[-1]).max()
        assert difference > 1e-3, "the padding's tokens take part in attention"


def test_cropped_masks_queries_in_training_too():
    """Queries of a cropped image, masked everywhere, attend to its patches alone."""
    model = small_model(remat=True)
    params = random_params(model)
    part = np.random.default_rng(1).integers(0, 256, (1, 32, SIDE, 3), np.uint8)
    out = model.apply(
        {"params": params},
        part,
        jnp.ones(2),
        cropped=True,
        rngs={"mask": jax.random.key(0)},
    )
    assert [masks.shape for masks in out.mask_logits] == [(1, 5, 8, 12)] * 3


@pytest.mark.parametrize("size", [(32, 44), (56, 48), (0, 48)])
def test_cropped_to_no_part_in_whole_patches_is_refused(size):
    images = np.zeros((1, *size, 3), np.uint8)
    model = small_model()
    with pytest.raises(ValueError, match=rf"\({size[0]}, {size[1]}\).*multiples"):
        model.apply({"params": random_params(model)}, images, cropped=True)

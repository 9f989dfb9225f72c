"""The published networks have the published sizes; none of them is built."""

import jax
import jax.numpy as jnp
import pytest

from eomt_jax.models import variants

# These numbers are for 133 classes, 200 queries, 640 px, 16-pixel patches, 4 registers.
PARAMETERS = {
    "small": (23_975_942, 22_215_168),
    "base": (93_663_110, 86_897_664),
    "large": (316_695_686, 304_791_552),
    "giant": (1_163_622_022, 1_137_115_136),
}
# These are transformers' DINOv3ViTModel at the published sizes, without the mask token.
DINOV3_PARAMETERS = {
    "dinov3_small": 21_596_160,
    "dinov3_base": 85_659_648,
    "dinov3_large": 303_128_576,
    "dinov3_huge": 840_591_360,
    "dinov3_7b": 6_716_030_976,
}


def shapes_of(model):
    images = jax.ShapeDtypeStruct((1, *model.vit.image_size, 3), jnp.uint8)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    model = variants.create_eomt(
        name, num_classes=133, num_queries=200, image_size=(640, 640)
    )
    params = shapes_of(model)
    assert (count(params), count(params["vit"])) == PARAMETERS[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", DINOV3_PARAMETERS)
def test_parameter_counts_of_dinov3(name):
    vit = variants.create_vit(name, image_size=(224, 224))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    params = jax.eval_shape(vit.init, jax.random.key(0), images)["params"]
    assert count(params) == DINOV3_PARAMETERS[name]


@pytest.mark.parametrize(("name", "blocks"), [("small", 3), ("large", 4), ("giant", 5)])
def test_number_of_query_blocks_follows_the_size(name, blocks):
    model = variants.create_eomt(
        name, num_classes=3, num_queries=2, image_size=(64, 64)
    )
    assert model.num_query_blocks == blocks


def test_unknown_variant_lists_the_known():
    with pytest.raises(ValueError, match=r"'huge'.*tiny, small, base, large, giant"):
        variants.create_vit("huge", image_size=(64, 64))


def test_image_that_is_no_multiple_of_the_patch_is_refused():
    model = variants.create_eomt(
        "tiny", num_classes=3, num_queries=2, image_size=(60, 64)
    )
    with pytest.raises(ValueError, match=r"\(60, 64\).*patch_size 16"):
        shapes_of(model)

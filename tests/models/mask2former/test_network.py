"""Mask2Former as a whole; its parts and other implementations are compared elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eomt_jax
from eomt_jax.models import variants
from eomt_jax.models.mask2former.network import FEATURES, Mask2Former
from eomt_jax.models.registry import create_network
from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.parallel.partition import param_shardings
from eomt_jax.training.state import variable_shapes
from eomt_jax.trees import from_variables
from eomt_jax.weights.native import model_folder


def small_model(features, *, image_size=(32, 64), **fields):
    vit = variants.create_vit(
        "tiny",
        image_size=image_size,
        patch_size=fields.pop("patch_size", 16),
        embed_dim=fields.pop("embed_dim", 32),
        depth=fields.pop("depth", 4),
        num_heads=2,
        mlp_dim=32,
        num_register_tokens=1,
    )
    sizes = {"dim": 32, "num_heads": 2, "mlp_dim": 32, "num_layers": 3}
    sizes |= {"pixel_layers": 1, "pixel_mlp_dim": 32, "prior_dim": 8}
    return Mask2Former(
        vit, num_classes=3, num_queries=5, features=features, **(sizes | fields)
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), np.uint8)


def apply(model, variables, images, *arguments, **options):
    call = jax.jit(lambda v, i: model.apply(v, i, *arguments, **options))
    return call(variables, images)


def test_training_predicts_before_each_layer_and_inference_once(images):
    # Tests on meshes train it with an adapter, whose compiling takes long.
    model = small_model("single_scale", depth=1, num_layers=2)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    rngs = {"mask": jax.random.key(0)}
    training = apply(model, variables, images, jnp.ones(2), rngs=rngs)
    assert [m.shape for m in training.mask_logits] == [(2, 5, 8, 16)] * 3
    assert [c.shape for c in training.class_logits] == [(2, 5, 4)] * 3
    masked = apply(model.with_masked_inference(True), variables, images)
    assert len(masked.mask_logits) == 1
    np.testing.assert_allclose(
        masked.mask_logits[0], training.mask_logits[-1], atol=1e-4, rtol=1e-4
    )
    unmasked = apply(model, variables, images)
    assert np.abs(unmasked.mask_logits[0] - masked.mask_logits[0]).max() > 1e-3


@pytest.mark.parametrize("features", ["adapter", "single_scale"])
def test_attention_maps_have_the_sizes_of_their_levels(features, images):
    model = small_model(features)

    def maps(variables):
        _, collected = model.apply(
            variables,
            images,
            mask_probs=jnp.ones(3),
            rngs={"mask": jax.random.key(0)},
            mutable=["intermediates"],
        )
        return model.attention_maps(collected["intermediates"], (32, 64))

    shapes = [x.shape for x in jax.eval_shape(maps, variable_shapes(model))]
    levels = [(2, 4)] * 3
    if model.features == "adapter":
        levels = [(1, 2), (2, 4), (4, 8)]
    assert shapes == [(2, 5, *level) for level in levels]


@pytest.mark.parametrize("features", FEATURES)
def test_every_parameter_has_a_group_and_a_place(features):
    model = small_model(features)
    variables = variable_shapes(model)
    assert ("batch_stats" in variables) is (features == "adapter")
    groups = model.parameter_groups(variables["params"])
    is_group = lambda leaf: hasattr(leaf, "depth")
    found = {
        (group.name, group.depth)
        for group in jax.tree.leaves(groups.tree, is_leaf=is_group)
    }
    assert {depth for name, depth in found if name == "vit blocks"} == {0, 1, 2, 3}
    assert {name for name, depth in found if depth is None} >= {"decoder", "class head"}
    mesh = create_mesh(MeshOptions(2, 2, 2))
    placed = param_shardings(from_variables(variables), mesh, model.partition_rules())
    specs = [sharding.spec for sharding in jax.tree.leaves(placed)]
    assert sum("fsdp" in spec for spec in specs) > len(specs) / 4


@pytest.mark.parametrize("features", FEATURES)
def test_a_saved_network_is_opened_as_it_was(tmp_path, features):
    model = small_model(features, masked_inference=True)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(np.float32),
        from_variables(variable_shapes(model)),
    )
    model_folder.save(tmp_path / "folder", model, params)
    model_folder.save_file(tmp_path / "file.safetensors", model, params)
    for path in tmp_path.iterdir():
        found, loaded = eomt_jax.load(path)
        assert found == model
        jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (48, 64)}, r"image_size .*\(48, 64\).*multiples of 32"),
        ({"image_size": (48, 64), "features": "pyramid"}, "multiples of .*32 pixels"),
        ({"patch_size": 8}, "patch_size 8.*model.patch_size = 16"),
        ({"features": "pyramids"}, "features = 'pyramids': there are adapter, pyramid"),
        ({"dim": 40, "num_heads": 4}, "dim 40 .*multiple of its 32 groups"),
        ({"num_heads": 5}, "dim 32 .*num_heads 5"),
        ({"adapter_ratio": 0.3}, "value_ratio = 0.3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_anything_compiles(changes, message):
    model = small_model(changes.pop("features", "adapter"), **changes)
    shape = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.uint8)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), shape)


def test_maps_are_an_option_of_mask2former_alone():
    with pytest.raises(ValueError, match="features = 'pyramid': an EoMT has no"):
        create_network(
            "eomt",
            variant="small",
            features="pyramid",
            num_classes=3,
            num_queries=5,
            num_masked_layers=0,
            image_size=(64, 64),
        )

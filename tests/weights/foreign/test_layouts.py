import jax
import numpy as np
import pytest
from flax import traverse_util

from eomt_jax.models import variants
from eomt_jax.weights.foreign import eomt_names, name_maps
from eomt_jax.weights.foreign.layouts import Architecture

DINOV2 = {
    "embed_dim": 8,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 24,
    "patch_size": 8,
    "grid_size": (2, 3),
    "num_register_tokens": 4,
    "layer_norm_eps": 1e-6,
}
ROTARY = DINOV2 | {"positions": "rotary", "qkv_bias": "no_key"}
HEADS = {"num_queries": 5, "num_classes": 3}


def model_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all parameters of our network of this architecture."""
    fields = architecture.vit_fields()
    image_size = fields.pop("image_size")
    if architecture.num_queries:
        heads = {**HEADS, "num_query_blocks": 1}
        model = variants.create_eomt("tiny", image_size=image_size, **heads, **fields)
    else:
        model = variants.create_vit("tiny", image_size=image_size, **fields)
    images = jax.ShapeDtypeStruct((1, *image_size, 3), np.uint8)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return {k: v.shape for k, v in traverse_util.flatten_dict(params, sep="/").items()}


@pytest.mark.parametrize("mlp_type", ["gelu", "swiglu"])
@pytest.mark.parametrize(
    "naming",
    [*name_maps.BACKBONES, *eomt_names.EOMTS],
    ids=lambda naming: naming.title.replace(" ", "_"),
)
def test_every_parameter_has_names_and_goes_there_and_back(naming, mlp_type):
    fields = ROTARY if naming.positions == "rotary" else DINOV2
    heads = HEADS if naming.heads else {}
    architecture = Architecture(**fields, **heads, mlp_type=mlp_type)
    table = naming.table_of(architecture)
    shapes = model_shapes(architecture)
    assert table.keys() == shapes.keys()
    all_names = [name for names in table.values() for name in names]
    assert len(set(all_names)) == len(all_names)
    rng = np.random.default_rng(0)
    for path, names in table.items():
        layout = naming.layout(path)
        shape = layout.shape(architecture)
        assert shape[0] % len(names) == 0, path
        theirs = rng.normal(size=shape)
        ours = layout.to_ours(theirs, architecture)
        # Positions are shaped to their grid by the code that reads them.
        wanted = shapes[path]
        if path.endswith("position_embedding"):
            wanted = (wanted[0] * wanted[1], wanted[2])
        assert ours.shape == wanted, path
        np.testing.assert_array_equal(layout.to_torch(ours), theirs, err_msg=path)


@pytest.mark.parametrize(
    ("patch_size", "num_blocks"), [(4, 1), (8, 1), (14, 1), (16, 2)]
)
def test_upscaling_ends_at_a_quarter_of_the_image(patch_size, num_blocks):
    fields = DINOV2 | {"patch_size": patch_size}
    architecture = Architecture(**fields, **HEADS, mlp_type="gelu")
    assert architecture.num_upscale_blocks == num_blocks

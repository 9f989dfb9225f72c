"""Names and refusals; tests/parity reads folders that transformers writes."""

import jax
import numpy as np
import pytest

from eomt_jax.models.mask2former.pixel_decoder import PixelDecoder
from eomt_jax.models.mask2former.transformer_decoder import TransformerDecoder
from eomt_jax.weights.foreign.mask2former import read_decoders, state_dict
from eomt_jax.weights.formats.files import Checkpoint

ATTENTION = "model.transformer_module.decoder.layers.0.cross_attn.in_proj_weight"
SMOOTHING = "model.pixel_level_module.decoder.layer_1.0.weight"


def checkpoint_of(tensors, **config) -> Checkpoint:
    return Checkpoint(
        path="PATH",
        shapes={name: value.shape for name, value in tensors.items()},
        config=config,
        load=tensors.__getitem__,
    )


@pytest.fixture(scope="module", params=[32, 24])
def params(request):
    """Returns random parameters; the decoder projects levels that are 24 wide too."""

    def init(rng):
        shapes = [(1, n, n, request.param) for n in (8, 4, 2, 1)]
        maps = tuple(jax.numpy.zeros(shape) for shape in shapes)
        pixel_decoder = PixelDecoder(32, num_heads=4, mlp_dim=40, num_layers=2)
        decoder = TransformerDecoder(
            5, 7, num_layers=2, dim=32, num_heads=4, mlp_dim=48
        )
        features = jax.numpy.zeros((1, 8, 8, 32))
        return {
            "pixel_decoder": pixel_decoder.init(rng, maps)["params"],
            "decoder": decoder.init(rng, maps[:0:-1], features, masked=None)["params"],
        }

    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(init, jax.random.key(0)),
    )


@pytest.fixture(scope="module")
def tensors(params):
    return state_dict(params)


def test_what_is_written_is_read_without_a_change(params, tensors):
    others = {
        "model.pixel_level_module.encoder.norm.weight": np.ones(3),
        "criterion.empty_weight": np.ones(6),
    }
    found = read_decoders(checkpoint_of(tensors | others, num_attention_heads=4))
    assert (found.num_queries, found.num_classes, found.num_heads) == (7, 5, 4)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_cross_attention_and_convolutions_have_pytorchs_layout(params, tensors):
    cross = params["decoder"]["layer_0"]["cross_attention"]
    assert tensors[ATTENTION].shape == (96, 32)
    np.testing.assert_array_equal(tensors[ATTENTION][40], cross["key"]["kernel"][:, 8])
    kernel = params["pixel_decoder"]["smoothing"]["kernel"]
    assert tensors[SMOOTHING][3, 5, 0, 2] == kernel[0, 2, 5, 3]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "maskformer"}, "model_type = 'maskformer'; .* 'mask2former'"),
        ({"pre_norm": True}, "PATH: config.json says pre_norm = True"),
        ({"activation_function": "gelu"}, "activation_function = 'gelu'"),
    ],
)
def test_another_network_by_config_is_refused(config, message, tensors):
    with pytest.raises(ValueError, match=message):
        read_decoders(checkpoint_of(tensors, **config))


def test_missing_unknown_and_misshapen_tensors_are_named(tensors):
    without = {name: x for name, x in tensors.items() if name != SMOOTHING}
    with pytest.raises(ValueError, match=rf"missing {SMOOTHING}; unknown model\.new"):
        read_decoders(checkpoint_of(without | {"model.new": np.ones(2)}))
    cut = tensors | {ATTENTION: tensors[ATTENTION][:95]}
    with pytest.raises(ValueError, match=r"in_proj_weight has the shape \(95, 32\)"):
        read_decoders(checkpoint_of(cut))
    with pytest.raises(ValueError, match=r"PATH is no Mask2Former .* found some\.name"):
        read_decoders(checkpoint_of({"some.name": np.ones(2)}))


def test_parameters_that_transformers_does_not_have_are_refused(params):
    more = params["decoder"] | {"more": {"bias": np.ones(2)}}
    with pytest.raises(ValueError, match="differ in decoder/more/bias"):
        state_dict(params | {"decoder": more})

"""Runs that start from the decoders of a Mask2Former of transformers."""

import json

import jax
import numpy as np
import pytest

from eomt_jax.models.mask2former.network import Mask2Former
from eomt_jax.models.registry import ModelOptions
from eomt_jax.models.vit import ViT
from eomt_jax.training import initialization
from eomt_jax.training.initialization import InitOptions, initialize
from eomt_jax.training.state import param_shapes
from eomt_jax.trees import leaves_by_path
from eomt_jax.weights.decoder import open_decoder
from eomt_jax.weights.foreign.mask2former import state_dict
from eomt_jax.weights.formats.files import write_safetensors

NAMES = ("cat", "dog", "sky")
OPTIONS = ModelOptions(name="mask2former", variant="small", num_queries=5)


def network(width: int, features: str = "pyramid", **fields) -> Mask2Former:
    vit = ViT(width, depth=1, num_heads=2, mlp_dim=16, image_size=(32, 64))
    sizes = {
        "num_layers": 2,
        "dim": 32,
        "num_heads": 4,
        "mlp_dim": 24,
        "pixel_layers": 1,
        "pixel_mlp_dim": 40,
        "num_classes": 3,
        "num_queries": 5,
    }
    return Mask2Former(vit, features=features, **{**sizes, **fields})


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Returns a folder of transformers and its parameters; its backbone is 16 wide."""
    rng = np.random.default_rng(0)
    shapes = param_shapes(network(16, num_queries=7))
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes
    )
    folder = tmp_path_factory.mktemp("mask2former")
    write_safetensors(folder / "model.safetensors", state_dict(params), {})
    config = {
        "model_type": "mask2former",
        "num_attention_heads": 4,
        "id2label": dict(enumerate(NAMES)),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder, leaves_by_path(params)


def start(monkeypatch, model, **init):
    monkeypatch.setattr(initialization, "create_network", lambda **_: model)
    names = init.pop("class_names", NAMES)
    return initialize(
        OPTIONS, InitOptions(**init), class_names=names, image_size=(32, 64)
    )


def test_decoders_start_from_the_stored_weights(stored, monkeypatch):
    folder, params = stored
    result = start(monkeypatch, network(16), decoder=str(folder))
    loaded = leaves_by_path(result.loaded)
    wanted = leaves_by_path(param_shapes(result.model))
    assert loaded.keys() == {
        path for path in wanted if path.startswith(("decoder/", "pixel_decoder/"))
    }
    for path, value in loaded.items():
        rows = 5 if path in ("decoder/queries", "decoder/query_positions") else None
        np.testing.assert_array_equal(value, params[path][:rows])
    assert result.notes[0] == f"decoder: {folder}"
    assert "queries: the first 5 of the checkpoint's 7" in result.notes
    assert "class head: kept" in result.notes
    assert "no weights of a backbone are loaded" in result.warning


def test_projections_of_a_backbone_of_another_width_are_new(stored, monkeypatch):
    folder, _ = stored
    result = start(monkeypatch, network(24), decoder=str(folder))
    wanted = leaves_by_path(param_shapes(result.model))
    loaded = leaves_by_path(result.loaded)
    assert all(value.shape == wanted[path].shape for path, value in loaded.items())
    scopes = {path.rpartition("/")[0] for path in wanted.keys() - loaded.keys()}
    new = {scope for scope in scopes if scope.startswith(("decoder", "pixel_decoder"))}
    projections = [f"pixel_decoder/projection_{i}" for i in range(3)]
    assert new == {"pixel_decoder/lateral", *projections}
    note = ", ".join(sorted(new))
    assert f"new, since the backbone's maps differ: {note}" in result.notes
    rows = {row.group: row for row in result.report}
    assert rows["pixel decoder"].new == 32 * (4 * 24 + 3)
    assert rows["decoder"].new == 0


def test_a_network_without_pixel_decoder_takes_the_decoder_alone(stored):
    folder, _ = stored
    opened = open_decoder(folder, network(16, "pyramid_only"))
    assert opened.params.keys() == {"decoder"}
    assert "projection_0" not in opened.params["decoder"]
    assert "pixel_decoder: left out, since the network has none" in opened.notes
    assert [c.name for c in opened.dataset_info.classes] == list(NAMES)


def test_classes_of_the_same_name_are_kept(stored, monkeypatch):
    folder, params = stored
    result = start(
        monkeypatch,
        network(16, num_classes=2),
        decoder=str(folder),
        class_head="by_name",
        class_names=("Sky", "tree"),
    )
    bias = result.loaded["decoder"]["class_head"]["bias"]
    stored_bias = params["decoder/class_head/bias"]
    np.testing.assert_array_equal(bias, [stored_bias[2], np.nan, stored_bias[3]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_layers": 1}, "decoder/layer_1/.* The network has 1 layers"),
        ({"num_heads": 8}, "num_attention_heads = 4; the network has 8"),
        ({"mlp_dim": 25}, "6 parameters of other names or shapes .*/mlp/down/kernel"),
    ],
)
def test_decoders_of_other_layers_are_refused(fields, message, stored, monkeypatch):
    with pytest.raises(ValueError, match=f"init.decoder: {stored[0]}: .*{message}"):
        start(monkeypatch, network(16, **fields), decoder=str(stored[0]))


def test_a_decoder_beside_a_checkpoint_or_in_an_eomt_is_refused(stored):
    folder = str(stored[0])
    sizes = {"class_names": NAMES, "image_size": (32, 32)}
    with pytest.raises(ValueError, match="init.checkpoint and init.decoder are both"):
        initialize(OPTIONS, InitOptions(checkpoint="a", decoder=folder), **sizes)
    with pytest.raises(ValueError, match="this one is of the kind EoMT"):
        initialize(ModelOptions(variant="small"), InitOptions(decoder=folder), **sizes)

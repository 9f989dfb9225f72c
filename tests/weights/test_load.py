import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eomt_jax
from eomt_jax import dataset_info
from eomt_jax.models import variants
from eomt_jax.weights.load import open_network
from eomt_jax.weights.native import model_folder


def random_params(model, image_size):
    images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: (0.1 * rng.normal(size=x.shape)).astype(np.float32), shapes
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns folder, model and parameters of an EoMT for 32 x 64 pixels."""
    folder = tmp_path_factory.mktemp("eomt")
    model = variants.create_eomt(
        "tiny", num_classes=3, num_queries=5, image_size=(32, 64), depth=3
    )
    params = random_params(model, (32, 64))
    model_folder.save(folder, model, params)
    return folder, model, params


def test_load_returns_what_was_saved(saved):
    folder, model, params = saved
    got_model, got_params = eomt_jax.load(folder)
    assert got_model == model
    jax.tree.map(np.testing.assert_array_equal, got_params, params)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_load_takes_a_model_file_of_when_networks_stored_where_they_ran(
    saved, tmp_path, on_cpu
):
    folder, model, _ = saved
    shutil.copytree(folder, tmp_path / "old")
    file = tmp_path / "old" / model_folder.MODEL_FILE
    stored = json.loads(file.read_text())
    stored["model"]["vit"]["on_cpu"] = on_cpu
    file.write_text(json.dumps(stored))
    assert eomt_jax.load(tmp_path / "old")[0] == model


def test_open_network_tells_classes_and_what_was_resampled(saved, tmp_path):
    _, model, params = saved
    info = dataset_info.published_info("cityscapes_semantic")
    info = dataclasses.replace(info, classes=info.classes[:3])
    model_folder.save_file(tmp_path / "a.safetensors", model, params, dataset_info=info)
    loaded = open_network(tmp_path / "a.safetensors", image_size=(64, 64))
    assert loaded.dataset_info == info
    (note,) = loaded.notes
    assert "resampled from (2, 4) to (4, 4) patches" in note
    with pytest.raises(ValueError, match="holds a whole model; the backbone x"):
        open_network(tmp_path / "a.safetensors", backbone="x")


def test_load_at_another_image_size_resamples_positions_alone(saved):
    folder, _, params = saved
    got_model, got_params = eomt_jax.load(folder, image_size=(96, 48), dtype="bfloat16")
    assert got_model.vit.image_size == (96, 48)
    assert got_model.vit.dtype == jnp.bfloat16
    assert got_params["vit"]["position_embedding"].shape == (6, 3, 128)
    images = np.zeros((1, 96, 48, 3), np.uint8)
    out = jax.eval_shape(got_model.apply, {"params": got_params}, images)
    assert out.mask_logits[0].shape == (1, 5, 24, 12)
    for tree in (got_params, params := jax.tree.map(np.copy, params)):
        tree["vit"] = {**tree["vit"], "position_embedding": 0}
    jax.tree.map(np.testing.assert_array_equal, got_params, params)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"num_queries": 6}, "num_queries = 5.*asks for 6"),
        ({"depth": 4}, "depth = 3.*asks for 4"),
        ({"num_heads": 8}, "num_heads = 4.*asks for 8"),
        ({"image_sise": (32, 32)}, "Unknown override image_sise; there are depth, "),
        ({"image_size": (40, 32)}, r"\(40, 32\) is not a positive multiple"),
        ({"image_size": (0, 32)}, r"\(0, 32\) is not a positive multiple"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps = nan; wanted a number"),
        ({"layer_norm_eps": -1e-6}, "layer_norm_eps = -1e-06; wanted a number above 0"),
        ({"rope_theta": float("inf")}, "rope_theta = inf; wanted a number above 0"),
    ],
)
def test_override_that_does_not_fit_is_refused(saved, override, message):
    with pytest.raises(ValueError, match=message):
        eomt_jax.load(saved[0], **override)


def test_nothing_at_the_path_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*/model.bin"):
        eomt_jax.load(tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 4}, "class_head/.* has shape .*4.*; wanted .*5"),
        ({"colour": 1}, "model.json: the fields of its EoMT .* unknown .colour"),
        ({"vit": {}}, "model.json: the fields of its ViT .* missing embed_dim"),
        ({"num_query_blocks": 9}, "cannot be built .*num_query_blocks 9 must lie"),
    ],
)
def test_model_file_that_contradicts_the_parameters(saved, tmp_path, change, message):
    folder, _, _ = saved
    value = json.loads((folder / "model.json").read_text())
    (tmp_path / "checkpoints").symlink_to(folder / "checkpoints")
    value["model"] |= change
    (tmp_path / "model.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=message):
        eomt_jax.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depth", 2, "depth = 2 in its model.json .* of 3 blocks"),
        ("depth", 10**30, "depth = 1000.*; wanted a whole number of 1 to 1,048,576"),
        ("num_register_tokens", 0, "Missing: none. Unknown: vit/register_tokens"),
    ],
)
def test_other_backbone_in_model_file_is_named(saved, tmp_path, field, value, message):
    folder, _, _ = saved
    config = json.loads((folder / "model.json").read_text())
    (tmp_path / "checkpoints").symlink_to(folder / "checkpoints")
    config["model"]["vit"][field] = value
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        eomt_jax.load(tmp_path)


def test_load_backbone_takes_the_vit_of_an_eomt(saved):
    folder, model, params = saved
    vit, vit_params = eomt_jax.load_backbone(folder)
    assert vit == model.vit
    jax.tree.map(np.testing.assert_array_equal, vit_params, params["vit"])


def test_load_backbone_of_a_converted_backbone(tmp_path):
    vit = variants.create_vit("tiny", image_size=(28, 28), patch_size=14, depth=1)
    params = random_params(vit, (28, 28))
    model_folder.save(tmp_path, vit, params)
    got, same = eomt_jax.load_backbone(tmp_path, patch_size=14)
    assert got == vit
    jax.tree.map(np.testing.assert_array_equal, same, params)
    got, resampled = eomt_jax.load_backbone(tmp_path, image_size=(48, 16))
    images = np.zeros((1, 48, 16, 3), np.uint8)
    tokens = jax.eval_shape(got.apply, {"params": resampled}, images)
    assert tokens.shape == (1, 1 + 4 + 3, 128)
    with pytest.raises(ValueError, match="holds a backbone, not a whole network"):
        eomt_jax.load(tmp_path)


def test_package_imports_jax_on_first_use_and_never_torch():
    code = (
        "import sys, eomt_jax; print('jax' in sys.modules); eomt_jax.load_backbone;"
        "print('jax' in sys.modules, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "True", "False"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "Other"},
            "describes no network: kind = .Other.; there are EoMT, Mask2Former, ViT",
        ),
        ({"kind": []}, "describes no network: kind"),
        ({"model": {"num_queries": 5}}, "not those of this eomt_jax: missing vit"),
        ({"model": [1]}, r"has \[1\] where the fields of its EoMT are"),
    ],
)
def test_model_file_of_neither_eomt_nor_vit_is_refused(
    saved, tmp_path, change, message
):
    folder, _, _ = saved
    config = json.loads((folder / "model.json").read_text()) | change
    (tmp_path / "checkpoints").symlink_to(folder / "checkpoints")
    (tmp_path / "model.json").write_text(json.dumps(config))
    for load in (eomt_jax.load, eomt_jax.load_backbone):
        with pytest.raises(ValueError, match=f"model.json.*{message}"):
            load(tmp_path)


@pytest.mark.parametrize("eps", [float("nan"), -1.0, 0, "1e-6"])
def test_stored_number_out_of_range_is_refused(saved, tmp_path, eps):
    _, model, params = saved
    model_folder.save(tmp_path / "eomt", model, params)
    file = tmp_path / "eomt" / "model.json"
    described = json.loads(file.read_text())
    described["model"]["vit"]["layer_norm_eps"] = eps
    file.write_text(json.dumps(described))
    with pytest.raises(
        ValueError, match="model.json: layer_norm_eps = .* above 0 and up to"
    ):
        eomt_jax.load(tmp_path / "eomt")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "x"),
        ("parent", None),
        ("remat", "yes"),
        ("remat", 1),
        ("on_cpu", "yes"),
        ("embed_dim", True),
        ("embed_dim", 64.0),
        ("num_heads", -2),
        ("patch_size", None),
        ("image_size", [64]),
        ("image_size", [64, "64"]),
        ("dtype", "int8"),
        ("dtype", ["float32"]),
        ("mlp_type", "relu"),
        ("positions", {}),
        ("rope_theta", True),
    ],
)
def test_field_of_another_type_in_model_file_is_named(saved, tmp_path, field, value):
    config = json.loads((saved[0] / "model.json").read_text())
    config["model"]["vit"][field] = value
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"model\.json: .*{field}"):
        model_folder.read_model_config(tmp_path)


@pytest.mark.parametrize("field", ["patch_size", "image_size", "depth"])
def test_missing_field_in_model_file_is_named(saved, tmp_path, field):
    config = json.loads((saved[0] / "model.json").read_text())
    del config["model"]["vit"][field]
    (tmp_path / "model.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"model\.json: .* missing {field}"):
        model_folder.read_model_config(tmp_path)

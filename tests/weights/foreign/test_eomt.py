import json
import re

import jax
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save_file

import eomt_jax
from eomt_jax import dataset_info
from eomt_jax.weights.foreign import eomt_names, name_maps
from eomt_jax.weights.foreign.layouts import Architecture
from eomt_jax.weights.formats import hub
from eomt_jax.weights.load import check_image_size, open_network, read_backbone
from eomt_jax.weights.native import model_folder

MEAN, STD = "network.encoder.pixel_mean", "network.encoder.pixel_std"
PROBS = "network.attn_mask_probs"
ARCHITECTURE = Architecture(
    embed_dim=128,
    depth=2,
    num_heads=2,
    mlp_dim=96,
    mlp_type="gelu",
    patch_size=8,
    grid_size=(4, 4),
    num_register_tokens=4,
    layer_norm_eps=1e-6,
    num_queries=5,
    num_classes=3,
)
ROTARY = {"positions": "rotary", "qkv_bias": "no_key", "layer_norm_eps": 1e-5}


def named_tensors(naming, *, seed=0, **fields) -> dict[str, np.ndarray]:
    """Returns random tensors by name, of ARCHITECTURE with `fields` replaced."""
    values = {f: getattr(ARCHITECTURE, f) for f in ARCHITECTURE.__dataclass_fields__}
    rotary = ROTARY if naming.positions == "rotary" else {}
    heads = {} if naming.heads else {"num_queries": 0, "num_classes": 0}
    architecture = Architecture(**(values | rotary | heads | fields))
    rng = np.random.default_rng(seed)
    tensors = {}
    for path, names in naming.table_of(architecture).items():
        rows, *rest = naming.layout(path).shape(architecture)
        for name in names:
            value = rng.normal(size=(rows // len(names), *rest))
            tensors[name] = value.astype(np.float32)
    return tensors


def release(*, naming=eomt_names.RELEASE, std=0.22, blocks=1, **fields):
    tensors = named_tensors(naming, **fields)
    tensors[MEAN] = tensors[STD] = np.full((1, 3, 1, 1), std, np.float32)
    tensors[PROBS] = np.zeros(blocks, np.float32)
    tensors["criterion.empty_weight"] = np.ones(4, np.float32)
    return tensors


def delta(**fields):
    return release(naming=eomt_names.RELEASE_DINOV3, std=0, **fields)


def save(path, tensors):
    save_file(tensors, path)
    return path


def test_release_is_told_by_its_shapes(tmp_path):
    file = save(tmp_path / "a.safetensors", release(blocks=2))
    loaded = open_network(file)
    model = loaded.model
    assert (model.num_classes, model.num_queries, model.num_query_blocks) == (3, 5, 2)
    assert (model.vit.depth, model.vit.num_heads, model.vit.mlp_dim) == (2, 2, 96)
    assert (model.vit.image_size, model.vit.patch_size) == ((32, 32), 8)
    (note,) = loaded.notes
    assert "3 classes" in note
    images = np.zeros((1, 32, 32, 3), np.uint8)
    wanted = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert jax.tree.map(np.shape, loaded.params) == jax.tree.map(np.shape, wanted)


def test_names_of_a_compiled_network_are_the_same(tmp_path):
    tensors = release()
    compiled = {
        k.replace("encoder.", "encoder._orig_mod."): tensors[k] for k in tensors
    }
    model, params = eomt_jax.load(save(tmp_path / "a.safetensors", compiled))
    same_model, same = eomt_jax.load(save(tmp_path / "b.safetensors", tensors))
    assert model == same_model
    jax.tree.map(np.testing.assert_array_equal, params, same)
    both = compiled | {MEAN: tensors[MEAN]}
    with pytest.raises(ValueError, match="one tensor of a compiled network"):
        eomt_jax.load(save(tmp_path / "c.safetensors", both))


def test_backbone_of_a_whole_eomt(tmp_path):
    file = save(tmp_path / "a.safetensors", release())
    _, params = eomt_jax.load(file)
    fields, vit_params, _ = read_backbone(file)
    assert fields["embed_dim"] == 128
    jax.tree.map(np.testing.assert_array_equal, vit_params, params["vit"])


@pytest.mark.parametrize(
    ("size", "resampled"), [((16, 72), False), ((32, 144), True), (None, None)]
)
def test_positions_of_no_square_need_the_image_size(tmp_path, size, resampled):
    tensors = release()
    name = "network.encoder.backbone.pos_embed"
    tensors[name] = np.zeros((1, 18, 128), np.float32)
    file = save(tmp_path / "a.safetensors", tensors)
    if resampled is False:
        model, params = eomt_jax.load(file, image_size=size)
        assert model.vit.image_size == size
        assert params["vit"]["position_embedding"].shape == (2, 9, 128)
        vit, _ = eomt_jax.load_backbone(file, image_size=size, patch_size=8)
        assert vit.image_size == size
        return
    with pytest.raises(ValueError, match="18 positions; wanted a square number"):
        eomt_jax.load(file, image_size=size)


@pytest.mark.parametrize("image_size", [64, (64, 64, 3), (64.0, 64.0), "64"])
def test_image_size_that_is_no_height_and_width_is_refused(image_size):
    with pytest.raises(ValueError, match=r"wanted \(height, width\)"):
        check_image_size(image_size)
    check_image_size((np.int64(64), 64))
    check_image_size(None)


def test_other_image_size_is_noted(tmp_path):
    file = save(tmp_path / "a.safetensors", release())
    *_, note = open_network(file, image_size=(32, 64)).notes
    assert "resampled from (4, 4) to (4, 8)" in note


def test_masked_attention_to_the_end_is_noted(tmp_path):
    tensors = release(blocks=2) | {PROBS: np.array([0, 0.25], np.float32)}
    note, _ = open_network(save(tmp_path / "a.safetensors", tensors)).notes
    assert "attn_mask_probs are 0, 0.25" in note


def test_number_of_query_blocks_by_keyword_or_by_published_width(tmp_path):
    tensors = release()
    del tensors[PROBS]
    file = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(ValueError, match="a.safetensors doesn't say how many blocks"):
        open_network(file)
    assert open_network(file, num_query_blocks=2).model.num_query_blocks == 2
    with pytest.raises(ValueError, match="3 of its blocks .* has 2"):
        open_network(file, num_query_blocks=3)
    published = named_tensors(eomt_names.RELEASE, depth=12, embed_dim=384, mlp_dim=8)
    loaded = open_network(save(tmp_path / "b.safetensors", published))
    assert loaded.model.num_query_blocks == 3
    assert "taken to be 3 as published" in loaded.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network.upscale.0.conv2.weight": None}, "Missing: network.upscale.0.conv2"),
        ({"network.q.weight": np.zeros((5, 64))}, "wanted (5, 128)"),
        ({"network.class_head.bias": np.zeros(5)}, "has shape (5,); wanted (4,)"),
        (
            {"network.upscale.1.conv1.bias": np.zeros(128)},
            "network.upscale.1.conv1.bias",
        ),
        ({"network.other": np.zeros(1)}, "Unknown: network.other"),
        ({PROBS: np.zeros(3)}, "3 of its blocks should see the queries"),
        ({STD: np.zeros((1, 3, 1, 1))}, "only those to DINOv3 are known"),
    ],
    ids=str,
)
def test_release_that_is_no_eomt_is_refused(tmp_path, change, message):
    tensors = release() | {
        k: v if v is None else v.astype(np.float32) for k, v in change.items()
    }
    tensors = {name: value for name, value in tensors.items() if value is not None}
    file = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(ValueError, match=f"a.safetensors.*{re.escape(message)}"):
        open_network(file)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_blocks": 2}, "num_blocks = 2, network.attn_mask_probs has 1 entries"),
        ({"num_queries": 200}, "num_queries = 200"),
        ({"image_size": 640}, "80 x 80 patches of 8 pixels"),
        ({"image_size": "large"}, "image_size = 'large'; wanted the pixels"),
        ({"id2label": {"0": "a"}}, "names 1 classes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_config_that_contradicts_the_weights_is_refused(tmp_path, config, message):
    save(tmp_path / "model.safetensors", release())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{tmp_path}.*{re.escape(message)}"):
        open_network(tmp_path)


def test_difference_and_backbone_add_up(tmp_path):
    changes = delta()
    base = named_tensors(name_maps.DINOV3, seed=1)
    file = save(tmp_path / "delta.safetensors", changes)
    backbone = save(tmp_path / "base.safetensors", base)
    model, params = eomt_jax.load(file, backbone=backbone, image_size=(48, 32))
    assert model.vit.image_size == (48, 32)
    key = "attention.k_proj.weight"
    total = base[f"layer.1.{key}"] + changes[f"network.encoder.backbone.blocks.1.{key}"]
    got = params["vit"]["block_1"]["attention"]["qkv"]["kernel"][:, 1]
    np.testing.assert_array_equal(got.reshape(128, 128).T, total)
    np.testing.assert_array_equal(params["queries"], changes["network.q.weight"])


def test_difference_without_its_image_size_says_what_is_taken(tmp_path):
    backbone = save(tmp_path / "base.safetensors", named_tensors(name_maps.DINOV3))
    loaded = open_network(save(tmp_path / "a.safetensors", delta()), backbone=backbone)
    assert loaded.model.vit.image_size == (640, 640)
    assert "taken to be 640 pixels" in loaded.notes[0]
    named = tmp_path / "coco_panoptic_eomt_small_1280_dinov3.safetensors"
    loaded = open_network(save(named, delta()), backbone=backbone)
    assert loaded.model.vit.image_size == (1280, 1280)


def test_difference_without_backbone_names_the_published_one(tmp_path):
    file = save(tmp_path / "a.safetensors", delta(embed_dim=384))
    with pytest.raises(ValueError, match="facebook/dinov3-vits16-pretrain-lvd1689m"):
        open_network(file)
    with pytest.raises(ValueError, match="no whole model but its differences"):
        eomt_jax.load_backbone(file)


@pytest.mark.parametrize("fields", [{"embed_dim": 64}, {"depth": 3}, {"patch_size": 4}])
def test_difference_to_another_backbone_is_refused(tmp_path, fields):
    file = save(tmp_path / "a.safetensors", delta())
    base = named_tensors(name_maps.DINOV3, **fields)
    ((name, value),) = fields.items()
    message = f"{name} = {getattr(ARCHITECTURE, name)}; .*base.* has {value}"
    with pytest.raises(ValueError, match=message):
        open_network(file, backbone=save(tmp_path / "base.safetensors", base))


def test_names_on_the_hub_stand_for_their_folders(tmp_path, monkeypatch):
    folders = {
        "tue-mps/coco_instance_eomt_small_32_dinov3@v1": delta(num_classes=80),
        "facebook/dinov3": named_tensors(name_maps.DINOV3),
    }
    for name, tensors in folders.items():
        (tmp_path / name).mkdir(parents=True)
        save(tmp_path / name / "model.safetensors", tensors)
    monkeypatch.setattr(hub, "resolve", lambda name: epath.Path(tmp_path / str(name)))
    name, backbone = folders
    loaded = open_network(name, backbone=backbone)
    assert loaded.dataset_info == dataset_info.published_info("coco_instance")
    assert loaded.model.vit.image_size == (32, 32)


def test_difference_to_a_backbone_of_ours_adds_up_or_is_refused(tmp_path):
    file = save(tmp_path / "a.safetensors", delta())
    base = save(tmp_path / "base.safetensors", named_tensors(name_maps.DINOV3))
    vit, vit_params = eomt_jax.load_backbone(base, patch_size=8)
    model_folder.save_file(tmp_path / "ours.safetensors", vit, vit_params)
    _, wanted = eomt_jax.load(file, backbone=base)
    _, got = eomt_jax.load(file, backbone=tmp_path / "ours.safetensors")
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    del vit_params["norm"]
    model_folder.save_file(tmp_path / "half.safetensors", vit, vit_params)
    with pytest.raises(ValueError, match="half.safetensors holds other parameters"):
        open_network(file, backbone=tmp_path / "half.safetensors")


def test_difference_has_the_heads_of_its_backbone(tmp_path):
    file = save(tmp_path / "a.safetensors", delta())
    folder = tmp_path / "base"
    folder.mkdir()
    save(folder / "model.safetensors", named_tensors(name_maps.DINOV3))
    config = {"num_attention_heads": 4, "rope_theta": 50.0, "layer_norm_eps": 1e-4}
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = eomt_jax.load(file, backbone=folder)
    fields = (model.vit.num_heads, model.vit.rope_theta, model.vit.layer_norm_eps)
    assert fields == (4, 50.0, 1e-4)
    assert fields[0] != 128 // 64  # what the width would tell


def test_heads_that_contradict_the_config_are_refused(tmp_path):
    save(tmp_path / "model.safetensors", release())
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}')
    with pytest.raises(ValueError, match="attention_heads = 2; num_heads=4 contra"):
        open_network(tmp_path, num_heads=4)
    assert open_network(tmp_path, num_heads=2).model.vit.num_heads == 2


def test_backbone_beside_a_whole_model_is_refused(tmp_path):
    file = save(tmp_path / "a.safetensors", release())
    with pytest.raises(ValueError, match="holds a whole model; the backbone b can't"):
        open_network(file, backbone="b")


def test_file_that_does_not_tell_whether_it_is_whole_needs_a_word(tmp_path):
    tensors = delta()
    del tensors[STD]
    file = save(tmp_path / "a.safetensors", tensors)
    backbone = save(tmp_path / "base.safetensors", named_tensors(name_maps.DINOV3))
    with pytest.raises(ValueError, match="Say delta=True if"):
        open_network(file)
    whole = open_network(file, delta=False).params
    added = open_network(file, delta=True, backbone=backbone).params
    token = tensors["network.encoder.backbone.patch_embed.cls_token"][0]
    np.testing.assert_array_equal(whole["vit"]["class_token"], token)
    assert np.any(added["vit"]["class_token"] != token)
    with pytest.raises(ValueError, match="holds a whole model; delta=True says"):
        open_network(save(tmp_path / "b.safetensors", release()), delta=True)


def test_each_way_in_refuses_what_is_for_another(tmp_path):
    backbone = save(tmp_path / "base.safetensors", named_tensors(name_maps.DINOV3))
    with pytest.raises(
        ValueError, match="holds a backbone, not a whole network.*load_backbone"
    ):
        open_network(backbone)
    other = save(tmp_path / "other.safetensors", {"a.weight": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="no EoMT that can be read.*found a.weight"):
        open_network(other)
    with pytest.raises(
        ValueError, match="no backbone that can be read.*found a.weight"
    ):
        eomt_jax.load_backbone(other)

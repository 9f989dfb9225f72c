import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eomt_jax.weights.foreign.backbones import read_vit
from eomt_jax.weights.formats.files import open_checkpoint

DIM, HIDDEN, PATCH = 64, 128, 8


def hugging_face_tensors(*, depth=2, registers=0) -> dict[str, np.ndarray]:
    shapes = {
        "embeddings.cls_token": (1, 1, DIM),
        "embeddings.mask_token": (1, DIM),
        "embeddings.position_embeddings": (1, 1 + 9, DIM),
        "embeddings.patch_embeddings.projection.weight": (DIM, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (DIM,),
        "layernorm.weight": (DIM,),
        "layernorm.bias": (DIM,),
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, DIM)
    for i in range(depth):
        block = {
            "attention.output.dense.weight": (DIM, DIM),
            "attention.output.dense.bias": (DIM,),
            "layer_scale1.lambda1": (DIM,),
            "layer_scale2.lambda1": (DIM,),
            "mlp.fc1.weight": (HIDDEN, DIM),
            "mlp.fc1.bias": (HIDDEN,),
            "mlp.fc2.weight": (DIM, HIDDEN),
            "mlp.fc2.bias": (DIM,),
        }
        for name in ("query", "key", "value"):
            block[f"attention.attention.{name}.weight"] = (DIM, DIM)
            block[f"attention.attention.{name}.bias"] = (DIM,)
        for name in ("norm1", "norm2"):
            block[f"{name}.weight"] = block[f"{name}.bias"] = (DIM,)
        shapes |= {f"encoder.layer.{i}.{k}": v for k, v in block.items()}
    rng = np.random.default_rng(0)
    return {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}


def read(path, **options):
    with open_checkpoint(path) as checkpoint:
        return read_vit(checkpoint, **options)


def save(path, tensors):
    save_file(tensors, path)
    return path


def test_architecture_is_told_by_the_shapes(tmp_path):
    tensors = hugging_face_tensors(depth=3, registers=5)
    architecture, params = read(save(tmp_path / "a.safetensors", tensors))
    assert architecture.vit_fields() == {
        "embed_dim": 64,
        "depth": 3,
        "num_heads": 1,
        "mlp_dim": 128,
        "mlp_type": "gelu",
        "patch_size": 8,
        "image_size": (24, 24),
        "num_register_tokens": 5,
        "layer_norm_eps": 1e-6,
        "qkv_bias": "all",
        "positions": "learned",
        "rope_theta": 100.0,
        "rope_rescale": 2.0,
    }
    assert params["register_tokens"].shape == (5, DIM)


def test_parameters_are_laid_out_as_ours(tmp_path):
    tensors = hugging_face_tensors()
    _, params = read(save(tmp_path / "a.safetensors", tensors), num_heads=4)
    block = {k.split("layer.1.")[1]: v for k, v in tensors.items() if "layer.1." in k}
    ours = params["block_1"]
    key = block["attention.attention.key.weight"]  # [out, in]
    # This is the weight of head 2, its output 3, and input 7.
    assert ours["attention"]["qkv"]["kernel"][7, 1, 2, 3] == key[2 * 16 + 3, 7]
    value = block["attention.attention.value.bias"]
    assert ours["attention"]["qkv"]["bias"][2, 3, 5] == value[3 * 16 + 5]
    out = block["attention.output.dense.weight"]
    assert ours["attention"]["out"]["kernel"][1, 4, 9] == out[9, 16 + 4]
    assert ours["mlp"]["up"]["kernel"][3, 100] == block["mlp.fc1.weight"][100, 3]
    kernel = tensors["embeddings.patch_embeddings.projection.weight"]
    assert params["patch_embedding"]["kernel"][1, 2, 0, 50] == kernel[50, 0, 1, 2]
    positions = tensors["embeddings.position_embeddings"][0]
    np.testing.assert_array_equal(params["position_embedding"][1, 2], positions[6])
    class_token = tensors["embeddings.cls_token"][0] + positions[:1]
    np.testing.assert_array_equal(params["class_token"], class_token)


def test_missing_and_unknown_names_are_listed(tmp_path):
    tensors = hugging_face_tensors()
    del tensors["encoder.layer.1.norm2.bias"], tensors["layernorm.weight"]
    tensors["classifier.weight"] = np.zeros(3, np.float32)
    message = (
        r"Missing: encoder.layer.1.norm2.bias, layernorm.weight. "
        r"Unknown: classifier.weight"
    )
    with pytest.raises(ValueError, match=message):
        read(save(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("encoder.layer.0.attention.attention.key.weight", (64, 32), (64, 64)),
        ("encoder.layer.1.mlp.fc2.weight", (64, 64), (64, 128)),
        ("encoder.layer.1.layer_scale1.lambda1", (1,), (64,)),
        ("embeddings.cls_token", (1, 64), (1, 1, 64)),
    ],
)
def test_wrong_shape_names_file_tensor_found_and_wanted(tmp_path, name, shape, wanted):
    tensors = hugging_face_tensors()
    tensors[name] = np.zeros(shape, np.float32)
    message = f"a.safetensors: {name} has shape {shape}; wanted {wanted}"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(save(tmp_path / "a.safetensors", tensors))


def test_nan_names_the_tensor(tmp_path):
    tensors = hugging_face_tensors()
    tensors["encoder.layer.1.mlp.fc1.bias"][5] = np.nan
    with pytest.raises(ValueError, match="layer.1.mlp.fc1.bias holds 1 values"):
        read(save(tmp_path / "a.safetensors", tensors))


def test_positions_that_make_no_square_are_refused(tmp_path):
    tensors = hugging_face_tensors()
    name = "embeddings.position_embeddings"
    tensors[name] = tensors[name][:, :9]
    with pytest.raises(ValueError, match="9 positions; wanted a square number and 1"):
        read(save(tmp_path / "a.safetensors", tensors))


def test_another_architecture_is_refused_with_its_name(tmp_path):
    tensors = {"vision_model.embeddings.class_embedding": np.zeros(3, np.float32)}
    save(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="'clip'.*vision_model.embeddings.class_emb"):
        read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 12},
        {"hidden_size": 384},
        {"hidden_act": "relu"},
        {"use_swiglu_ffn": True},
        {"num_attention_heads": 5},
        {"num_attention_heads": "two"},
        {"layer_norm_eps": "tiny"},
        {"image_size": [8, 80]},
        {"model_type": "dinov3_vit"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_config_that_contradicts_the_weights_is_refused(tmp_path, change):
    save(tmp_path / "model.safetensors", hugging_face_tensors())
    config = {"model_type": "dinov2", "num_attention_heads": 2, "image_size": 24}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read(tmp_path)[0].num_heads == 2
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=str(tmp_path)):
        read(tmp_path)


def test_damaged_header_is_refused_or_harmless(tmp_path):
    path = save(tmp_path / "a.safetensors", hugging_face_tensors(depth=1))
    expected = read(path)
    good = path.read_bytes()
    header_size = 8 + int.from_bytes(good[:8], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.integers(header_size)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            got = read(path)
        except ValueError:
            refused += 1
            continue
        assert got[0] == expected[0]
        jax.tree.map(np.testing.assert_array_equal, got[1], expected[1])
    assert refused > 250


def test_mutated_tensors_are_refused(tmp_path):
    path = save(tmp_path / "a.safetensors", hugging_face_tensors(depth=1))
    good = load_file(path)
    rng = np.random.default_rng(0)
    useful = [name for name in good if "mask_token" not in name]
    for _ in range(100):
        tensors = dict(good)
        name = useful[rng.integers(len(useful))]
        value = tensors.pop(name)
        match rng.integers(5):
            case 0:
                tensors[name + "_"] = value
            case 1:
                tensors[name] = value[..., :-1]
            case 2:
                tensors[name] = value[None]
            case 3:
                tensors[name] = np.where(value == value.max(), np.inf, value)
            case 4:
                tensors[name] = value.astype(np.int32)
        with pytest.raises(ValueError, match="a.safetensors"):
            read(save(path, tensors))

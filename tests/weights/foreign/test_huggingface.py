"""Folders for transformers are right; in tests/parity transformers loads them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from eomt_jax.dataset_info import published_info
from eomt_jax.models.variants import create_eomt
from eomt_jax.weights.foreign import huggingface
from eomt_jax.weights.load import open_network

SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_dim": 48}
NETWORKS = {
    "registers": {},
    "no registers": {"num_register_tokens": 0},
    "small patches": {"patch_size": 8},
    "swiglu": {"mlp_type": "swiglu", "mlp_dim": 64},
    "rotary": {"variant": "dinov3_small", "rope_theta": 50.0},
    "rotary without biases": {"variant": "dinov3_small", "qkv_bias": "none"},
}


def small_eomt(variant="small", **fields):
    fields = {"image_size": (32, 32), "num_classes": 80, **SIZES, **fields}
    model = create_eomt(variant, num_queries=5, num_query_blocks=1, **fields)
    images = jax.ShapeDtypeStruct((1, *model.vit.image_size, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
    )


def read_json(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("network", NETWORKS)
def test_written_folder_opens_as_what_was_written(network, tmp_path):
    model, params = small_eomt(**NETWORKS[network])
    info = published_info("coco_instance")
    huggingface.save(tmp_path / "out", model, params, dataset_info=info)
    loaded = open_network(tmp_path / "out", num_heads=2)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    # Neither side stores a field that only training from scratch reads.
    vit = loaded.model.vit.clone(layer_scale_init=model.vit.layer_scale_init)
    assert loaded.model.clone(vit=vit) == model
    assert loaded.dataset_info == info
    assert loaded.notes == ()


def test_shards_are_no_larger_than_they_may_be(tmp_path):
    model, params = small_eomt()
    huggingface.save(tmp_path / "out", model, params, max_shard_bytes=80_000)
    index = read_json(tmp_path / "out" / "model.safetensors.index.json")
    files = sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert len(files) > 1
    sizes = [(tmp_path / "out" / file).stat().st_size for file in files]
    headers = 8000
    assert max(sizes) < 80_000 + headers
    tensors = huggingface.named_tensors(model, params)
    weights = sum(tensor.value.nbytes for tensor in tensors.values())
    assert index["metadata"]["total_size"] == weights + 4 * (
        1 + 81
    )  # of masks and loss
    loaded = open_network(tmp_path / "out", num_heads=2)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


@pytest.mark.parametrize(
    "task, windows, longest",
    [("panoptic", False, 32), ("instance", False, 32), ("semantic", True, None)],
)
def test_task_decides_how_photographs_are_cut(task, windows, longest, tmp_path):
    model, params = small_eomt()
    info = dataclasses.replace(published_info("coco_instance"), task=task)
    huggingface.save(tmp_path / "out", model, params, dataset_info=info)
    processor = read_json(tmp_path / "out" / "preprocessor_config.json")
    assert processor["do_split_image"] is windows
    assert processor["do_pad"] is not windows
    assert processor["size"] == {"shortest_edge": 32, "longest_edge": longest}


def test_classes_without_names_are_placeholders(tmp_path):
    model, params = small_eomt(num_classes=2)
    huggingface.save(tmp_path / "out", model, params)
    config = read_json(tmp_path / "out" / "config.json")
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    assert "eomt_jax" not in config
    assert open_network(tmp_path / "out", num_heads=2).dataset_info is None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"image_size": (32, 48)}, "square images alone"),
        ({"mlp_dim": 50}, "a multiple of its width 24; this one's 50"),
        ({"mlp_type": "swiglu", "mlp_dim": 50}, "rounded up to eights"),
        ({"variant": "dinov3_7b"}, "SiLU in its heads"),
        ({"qkv_bias": "no_key"}, "qkv_bias = 'no_key'"),
        ({"num_classes": 3}, "model has 3 classes, coco_instance has 80"),
    ],
)
def test_what_transformers_cannot_hold_is_refused(fields, message, tmp_path):
    model, params = small_eomt(**fields)
    info = published_info("coco_instance")
    with pytest.raises(ValueError, match=message):
        huggingface.save(tmp_path / "out", model, params, dataset_info=info)
    assert list(tmp_path.iterdir()) == []


def test_damaged_parameters_are_refused(tmp_path):
    model, params = small_eomt()
    params["queries"][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"query\.weight holds .* not finite"):
        huggingface.save(tmp_path / "out", model, params)
    del params["queries"]
    with pytest.raises(ValueError, match="differ in queries"):
        huggingface.save(tmp_path / "out", model, params)
    assert list(tmp_path.iterdir()) == []

"""Checkpoints that are damaged in many ways are refused, or read as before.

Some damage can't be found, since the file is a valid one of another network or other
weights: other numbers inside a tensor if the file has no checksum (ours have one, those
of other libraries don't), or another valid value in a JSON file for a field that the
weights don't determine. So bytes of tensors are changed only in our files, and if such
a field is changed, only the weights are compared.
"""

import json
import shutil
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import ViT
from eomt_jax.types import ClassInfo, DatasetInfo
from eomt_jax.weights.foreign.eomt_names import (
    HUGGING_FACE_EOMT,
    HUGGING_FACE_EOMT_DINOV3,
)
from eomt_jax.weights.foreign.layouts import Architecture
from eomt_jax.weights.load import open_network
from eomt_jax.weights.native import model_folder
from tests.weights.damage import STRANGE, Damage, damage_bytes, json_edits, tensor_edits

SIDE, PATCH = 32, 16
INFO = DatasetInfo(
    name="two",
    classes=(
        ClassInfo(7, "cat", True, (255, 0, 0)),
        ClassInfo(9, "sky", False, (0, 0, 255)),
    ),
    max_image_size=(48, 64),
    max_segments=3,
    num_examples={"train": 5},
)


def random_like(rng, tree):
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), tree)


@pytest.fixture(scope="module")
def ours():
    vit = ViT(
        image_size=(SIDE, SIDE),
        patch_size=PATCH,
        embed_dim=8,
        depth=2,
        num_heads=2,
        mlp_dim=16,
    )
    model = EoMT(vit=vit, num_classes=2, num_queries=3, num_query_blocks=1)
    images = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return model, random_like(np.random.default_rng(0), shapes)


def write_huggingface(folder, *, rotary, rng):
    """Writes a folder like those of transformers."""
    naming = HUGGING_FACE_EOMT_DINOV3 if rotary else HUGGING_FACE_EOMT
    architecture = Architecture(
        embed_dim=8,
        depth=2,
        num_heads=2,
        mlp_dim=24,
        mlp_type="gelu",
        patch_size=PATCH,
        grid_size=(SIDE // PATCH, SIDE // PATCH),
        num_register_tokens=4,
        layer_norm_eps=1e-6,
        qkv_bias="no_key" if rotary else "all",
        positions="rotary" if rotary else "learned",
        num_queries=3,
        num_classes=2,
    )
    tensors = {naming.mask_probs: np.zeros(1, np.float32)}
    for path, names in naming.table_of(architecture).items():
        rows, *rest = naming.layout(path).shape(architecture)
        for name in names:
            value = rng.normal(size=(rows // len(names), *rest))
            tensors[name] = value.astype(np.float32)
    config = {
        "model_type": naming.model_types[0],
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_blocks": 1,
        "num_queries": 3,
        "patch_size": PATCH,
        "image_size": SIDE,
        "num_register_tokens": 4,
        "layer_norm_eps": 1e-5 if rotary else 1e-6,
        "hidden_act": "gelu",
        "id2label": {"0": "cat", "1": "sky"},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text('{"do_split_image": true}')
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def shard(folder):
    tensors = load_file(folder / "model.safetensors")
    weight_map = {name: f"model-{len(name) % 3}.safetensors" for name in tensors}
    for file in set(weight_map.values()):
        part = {name: t for name, t in tensors.items() if weight_map[name] == file}
        save_file(part, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 5}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, ours):
    root = tmp_path_factory.mktemp("good")
    model_folder.save_file(root / "ours.safetensors", *ours, dataset_info=INFO)
    model_folder.save(root / "ours", *ours, dataset_info=INFO)
    rng = np.random.default_rng(1)
    write_huggingface(root / "huggingface", rotary=False, rng=rng)
    write_huggingface(root / "dinov3", rotary=True, rng=rng)
    shutil.copytree(root / "huggingface", root / "shards")
    shard(root / "shards")
    return root


def test_damaged_byte_of_our_file_is_always_found(checkpoints):
    damage = Damage(checkpoints / "ours.safetensors")
    rng = np.random.default_rng(2)
    for _ in range(120):
        damage.try_bytes(*damage_bytes(rng, damage.good))
    assert damage.counts["refused"] > 110


@pytest.mark.parametrize("name", ["huggingface", "dinov3"])
def test_damaged_header_of_another_file_is_found(checkpoints, name):
    damage = Damage(checkpoints / name, "model.safetensors")
    rng = np.random.default_rng(3)
    stop = 8 + int.from_bytes(damage.good[:8], "little")
    for _ in range(40):
        damage.try_bytes(*damage_bytes(rng, damage.good, stop=stop))
    assert damage.counts["refused"] > 30


@pytest.mark.parametrize("name", ["ours.safetensors", "huggingface", "dinov3"])
def test_changed_tensor_is_found(checkpoints, tmp_path, name):
    file = "" if name.startswith("ours") else "model.safetensors"
    damage = Damage(checkpoints / name, file)
    tensors = load_file(damage.file)
    rng = np.random.default_rng(4)
    header = damage.good[8 : 8 + int.from_bytes(damage.good[:8], "little")]
    metadata = json.loads(header)["__metadata__"]
    for edited, what in tensor_edits(rng, tensors):
        save_file(edited, tmp_path / "edited", metadata)
        damage.try_bytes((tmp_path / "edited").read_bytes(), what)
    assert damage.counts["refused"] > 40
    assert damage.counts["harmless"] >= 5


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("huggingface", "config.json", 40),
        ("dinov3", "config.json", 40),
        ("huggingface", "preprocessor_config.json", 5),
        ("shards", "model.safetensors.index.json", 30),
        ("ours", "model.json", 40),
    ],
)
def test_changed_json_is_refused_or_harmless(checkpoints, name, file, count):
    damage = Damage(checkpoints / name, file)
    rng = np.random.default_rng(5)
    value = json.loads(damage.good)
    for changed, what in json_edits(rng, value, count):
        damage.try_json(json.dumps(changed), what)
    for _ in range(count // 2):
        damage.try_json(*damage_bytes(rng, damage.good))
    for strange in STRANGE[: count // 3]:
        damage.try_json(json.dumps(strange), str(strange))
    refused = damage.counts["refused"]
    damage.try_json(json.dumps(value, indent=7) + "\n\n", "spaces")
    assert refused == damage.counts["refused"] > 0


def test_damaged_file_of_our_folder_is_refused_or_harmless(checkpoints):
    rng = np.random.default_rng(6)
    folder = checkpoints / "ours"
    files = [f for f in sorted(folder.rglob("params/**/*")) if f.is_file()]
    files = [f for f in files if f.stat().st_size]
    # All files of the tree itself are changed, and some of the parameters' files.
    chosen = [f for f in files if f.parent.name == "params"] + files[::9]
    refused = 0
    for file in chosen:
        damage = Damage(folder, file.relative_to(folder), load=_read_params)
        for _ in range(3):
            damage.try_bytes(*damage_bytes(rng, damage.good))
        refused += damage.counts["refused"]
    assert refused > 5


def _read_params(folder):
    """Reads the parameters without building the network, which takes longer."""
    return types.SimpleNamespace(params=model_folder.read_params(folder), model=None)


@pytest.mark.parametrize("name", ["ours", "huggingface", "shards"])
def test_file_that_is_missing_empty_or_a_folder(checkpoints, tmp_path, name):
    good = open_network(checkpoints / name)
    files = sorted(f for f in (checkpoints / name).rglob("*.*") if f.is_file())
    files = [f for f in files if len(f.relative_to(checkpoints).parts) == 2] + files[:1]
    refused = 0
    for i, original in enumerate(files):
        for kind in ("missing", "empty", "folder", "loop"):
            folder = tmp_path / f"{kind}{i}"
            shutil.copytree(checkpoints / name, folder)
            file = folder / original.relative_to(checkpoints / name)
            file.unlink()
            if kind == "empty":
                file.write_bytes(b"")
            elif kind == "folder":
                file.mkdir()
            elif kind == "loop":
                file.symlink_to(file)
            try:
                loaded = open_network(folder)
            except (ValueError, FileNotFoundError) as error:
                assert str(folder) in str(error), (kind, original)
                refused += 1
            else:
                jax.tree.map(np.testing.assert_array_equal, loaded.params, good.params)
    assert refused >= 4

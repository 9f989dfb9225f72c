"""Prefixes that trainers put before names are removed."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import eomt_jax
from eomt_jax.weights.load import open_network, read_backbone
from tests.weights.foreign.test_backbones import hugging_face_tensors
from tests.weights.foreign.test_eomt import release


def save(path, tensors):
    save_file(tensors, path)
    return path


@pytest.fixture
def plain(tmp_path):
    """Returns the tensors of a backbone, and its parameters."""
    tensors = hugging_face_tensors()
    _, params = eomt_jax.load_backbone(save(tmp_path / "plain.safetensors", tensors))
    return tensors, params


def same(tree, other):
    np.testing.assert_array_equal(
        tree["block_1"]["mlp"]["up"]["kernel"], other["block_1"]["mlp"]["up"]["kernel"]
    )


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "model.module.", "module._orig_mod.", "teacher."]
)
def test_prefix_that_all_names_share_is_taken_off(plain, tmp_path, prefix):
    tensors, params = plain
    wrapped = {f"{prefix}{name}": value for name, value in tensors.items()}
    _, got = eomt_jax.load_backbone(save(tmp_path / "a.safetensors", wrapped))
    same(got, params)


def test_prefix_of_a_whole_eomt_is_taken_off(tmp_path):
    wrapped = {f"module.{name}": value for name, value in release(blocks=2).items()}
    loaded = open_network(save(tmp_path / "a.safetensors", wrapped))
    assert (loaded.model.num_queries, loaded.model.num_query_blocks) == (5, 2)


def test_average_is_taken_and_said_and_heads_of_a_training_are_left(plain, tmp_path):
    tensors, params = plain
    student = {f"student.backbone.{k}": v + 1 for k, v in tensors.items()}
    teacher = {f"teacher.backbone.{k}": v for k, v in tensors.items()}
    teacher["teacher.dino_head.mlp.0.weight"] = np.zeros((3, 3), np.float32)
    file = save(tmp_path / "a.safetensors", student | teacher)
    _, got, notes = read_backbone(file)
    same(got, params)
    assert notes == (
        "The tensors of teacher are taken, and not those of student.",
        "The tensors of backbone are taken, and not those of dino_head.",
    )


def test_tensors_of_unknown_use_beside_the_network_are_refused(plain, tmp_path):
    tensors, _ = plain
    wrapped = {f"backbone.{name}": value for name, value in tensors.items()}
    wrapped["decoder.weight"] = np.zeros((3, 3), np.float32)
    file = save(tmp_path / "a.safetensors", wrapped)
    with pytest.raises(ValueError, match="no backbone that can be read.*backbone"):
        eomt_jax.load_backbone(file)


def test_two_copies_of_unknown_names_are_refused(plain, tmp_path):
    tensors, _ = plain
    both = {f"{key}.{k}": v for key in ("one", "two") for k, v in tensors.items()}
    file = save(tmp_path / "a.safetensors", both)
    with pytest.raises(ValueError, match=r"several sets of weights \(one, two\)"):
        eomt_jax.load_backbone(file)

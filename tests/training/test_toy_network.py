"""A network from outside of the library can be trained, evaluated, saved and so on."""

import shutil

import jax
import numpy as np
import pytest

import eomt_jax
from eomt_jax.models import registry
from eomt_jax.pipeline.records import open_split
from eomt_jax.trees import from_variables, leaves_by_path
from eomt_jax.weights.native import model_folder
from tests.training.toy_network import ToyNetwork, create_toy

STATS = "batch_stats/stage1/bn/mean"


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """Registers the network for one test."""
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    registry.register("toy", ToyNetwork, create_toy)


@pytest.fixture
def toy_config(tiny_config, cache):
    config = tiny_config
    config.compilation_cache = str(cache)
    config.model.name = "toy"
    config.batch_size = 8
    config.eval.batch_size = 8
    config.mesh.fsdp = 2
    config.mesh.tensor = 2
    config.total_steps = 4
    return config


def test_network_from_outside_trains_resumes_evaluates_predicts_and_loads(
    toy_config, tmp_path
):
    whole = eomt_jax.train_config(toy_config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part/checkpoints/4")
    resumed = eomt_jax.train_config(toy_config, tmp_path / "part")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)

    model, params = eomt_jax.load(tmp_path / "whole")
    assert model == ToyNetwork(8, num_classes=6, num_queries=8, image_size=(32, 32))
    flat = leaves_by_path(params)
    assert np.abs(flat[STATS]).max() > 0
    np.testing.assert_array_equal(
        flat[STATS], whole.batch_stats["stage1"]["bn"]["mean"]
    )

    results = eomt_jax.evaluate_checkpoint(toy_config, tmp_path / "whole")
    assert results["step"] == 4 and np.isfinite(results["all"]["pq"])

    source = open_split(toy_config.dataset.data_dir, "shapes", "validation")
    model_folder.save_file(
        tmp_path / "toy.safetensors", model, params, dataset_info=source.info
    )
    segmenter = eomt_jax.Segmenter.from_checkpoint(tmp_path / "toy.safetensors")
    image = np.zeros((40, 50, 3), np.uint8)
    for task in ("panoptic", "semantic"):
        assert segmenter(image, task=task).size == (40, 50)


def test_network_without_a_backbone_opens_at_another_size_and_dtype_or_says_why(
    tmp_path,
):
    model = ToyNetwork(8, num_classes=2, num_queries=3, image_size=(32, 32))
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), "uint8")
    )
    params = jax.tree.map(lambda x: np.ones(x.shape), from_variables(shapes))
    path = tmp_path / "toy.safetensors"
    model_folder.save_file(path, model, params)
    opened, _ = eomt_jax.load(path, image_size=(64, 48), dtype="bfloat16")
    assert (opened.image_size, opened.dtype) == ((64, 48), "bfloat16")
    assert eomt_jax.load(path, remat=True)[0] == model  # it has no such field
    with pytest.raises(ValueError, match="Unknown override depth"):
        eomt_jax.load(path, depth=3)
    with pytest.raises(ValueError, match="width = 8, which its parameters settle"):
        eomt_jax.load(path, width=9)

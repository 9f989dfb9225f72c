import json
import logging
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from eomt_jax.models import variants
from eomt_jax.types import ClassInfo, DatasetInfo
from eomt_jax.weights.native import model_folder

INFO = DatasetInfo(
    name="two",
    classes=(
        ClassInfo(7, "cat", True, (255, 0, 0)),
        ClassInfo(9, "sky", False, (0, 0, 255)),
    ),
    max_image_size=(48, 64),
    max_segments=3,
    num_examples={"train": 5, "validation": 1},
)


@pytest.fixture
def model():
    return variants.create_vit(
        "tiny", image_size=(32, 48), depth=1, dtype="bfloat16", remat=True
    )


@pytest.fixture
def params(model):
    images = np.zeros((1, 32, 48, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def test_save_then_read_returns_the_same_bits(tmp_path, model, params):
    model_folder.save(tmp_path / "new" / "folder", model, params, dataset_info=INFO)
    got = model_folder.read_params(tmp_path / "new" / "folder")
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(got))
    jax.tree.map(np.testing.assert_array_equal, got, params)
    config = model_folder.read_model_config(tmp_path / "new" / "folder")
    assert config == model_folder.ModelConfig.of(model, INFO)
    assert config.kind == "ViT"
    assert not {"dtype", "remat"} & config.fields.keys()
    assert config.dataset_info == INFO


def test_eomt_config_holds_its_backbone(tmp_path):
    eomt = variants.create_eomt(
        "small", num_classes=3, num_queries=7, image_size=(64, 96), patch_size=8
    )
    model_folder.save_model_config(tmp_path, model_folder.ModelConfig.of(eomt))
    config = model_folder.read_model_config(tmp_path)
    assert config.kind == "EoMT"
    assert config.dataset_info is None
    vit = config.fields.pop("vit")
    assert config.fields == {
        "masked_inference": False,
        "num_classes": 3,
        "num_queries": 7,
        "num_query_blocks": 3,
    }
    assert (vit["image_size"], vit["patch_size"], vit["depth"]) == ([64, 96], 8, 12)


def test_relative_path_and_step_folder_are_understood(
    tmp_path, monkeypatch, model, params
):
    monkeypatch.chdir(tmp_path)
    model_folder.save("here", model, params)
    for folder in ("here", "here/checkpoints/0"):
        assert model_folder.is_native(folder)
        assert model_folder.read_model_config(folder).kind == "ViT"
        got = model_folder.read_params(folder)
        np.testing.assert_array_equal(got["class_token"], params["class_token"])


def test_save_warns_of_nothing(tmp_path, model, params, caplog):
    model_folder.save(tmp_path, model, params)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_second_save_into_a_folder_is_refused(tmp_path, model, params):
    model_folder.save(tmp_path, model, params)
    with pytest.raises(ValueError, match="already holds a model"):
        model_folder.save(tmp_path, model, params)


def test_newest_complete_step_is_read(tmp_path):
    steps = tmp_path / "checkpoints"
    manager = ocp.CheckpointManager(steps)
    for step in (2, 10, 9):
        params = {"queries": np.full((2, 3), step, np.float32)}
        manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params), position=ocp.args.JsonSave({})
            ),
            force=True,
        )
    manager.close()
    (steps / "11.orbax-checkpoint-tmp-1" / "params").mkdir(parents=True)
    assert model_folder.read_params(tmp_path)["queries"][0, 0] == 10
    assert model_folder.read_params(steps / "2")["queries"][0, 0] == 2


def test_step_that_orbax_calls_unfinished_is_passed_over(tmp_path, monkeypatch):
    # In a bucket nothing is renamed, so an unfinished step already has its final name.
    for step in ("1", "2"):
        item = tmp_path / "checkpoints" / step / "params"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(item, {"queries": np.full(3, float(step), np.float32)})
    monkeypatch.setattr(
        ocp.utils, "is_checkpoint_finalized", lambda path: path.name != "2"
    )
    assert model_folder.read_params(tmp_path)["queries"][0] == 1


def test_saved_folder_is_whole_by_the_rule_of_buckets(
    tmp_path, model, params, monkeypatch
):
    model_folder.save(tmp_path, model, params)
    from orbax.checkpoint._src.path import gcs_utils

    monkeypatch.setattr(gcs_utils, "is_gcs_path", lambda path: True)
    got = model_folder.read_params(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, got, params)


def test_parameters_written_on_a_mesh_are_read_whole(tmp_path):
    mesh = jax.make_mesh(
        (jax.device_count(),), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    sharding = jax.NamedSharding(mesh, jax.P("fsdp"))
    value = np.arange(4.0 * jax.device_count(), dtype=np.float32)
    with ocp.StandardCheckpointer() as checkpointer:
        item = tmp_path / "checkpoints" / "0" / "params"
        checkpointer.save(item, {"queries": jax.device_put(value, sharding)})
    np.testing.assert_array_equal(model_folder.read_params(tmp_path)["queries"], value)


def test_folder_without_a_complete_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        model_folder.read_params(tmp_path)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(ValueError, match="params does not exist"):
        model_folder.read_params(tmp_path)


def test_damaged_parameters_are_refused(tmp_path, model):
    weights = np.random.default_rng(0).normal(size=(5, 100)).astype(np.float32)
    # There is one leaf, since for several, orbax leaves errors to the garbage
    # collector.
    model_folder.save(tmp_path, model, {"queries": weights})
    file = tmp_path / "checkpoints/0/params/queries/0.0"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="params cannot be read"):
        model_folder.read_params(tmp_path)


def test_other_parameters_than_were_saved_are_refused(tmp_path, model, params):
    model_folder.save(tmp_path / "a", model, params)
    model_folder.save(tmp_path / "b", model, jax.tree.map(lambda x: x + 1, params))
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    shutil.copytree(tmp_path / "b" / "checkpoints", tmp_path / "a" / "checkpoints")
    with pytest.raises(ValueError, match="a/checkpoints/0/params was written with the"):
        model_folder.read_params(tmp_path / "a")


def test_nan_names_the_parameter(tmp_path, model, params):
    params["block_0"]["mlp"]["up"]["bias"][3] = np.nan
    model_folder.save(tmp_path, model, params)
    with pytest.raises(ValueError, match="block_0/mlp/up/bias holds"):
        model_folder.read_params(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"version": 1, "kind": "ViT", "model": {}}'],
)
def test_broken_model_file_is_named(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ValueError, match="model.json cannot be read"):
        model_folder.read_model_config(tmp_path)


def test_model_file_of_another_version_is_refused(tmp_path, model):
    model_folder.save_model_config(tmp_path, model_folder.ModelConfig.of(model))
    value = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(value | {"version": 2}))
    with pytest.raises(ValueError, match="version 2; this eomt_jax reads version 1"):
        model_folder.read_model_config(tmp_path)


def test_missing_model_file_is_named(tmp_path):
    assert not model_folder.is_native(tmp_path)
    with pytest.raises(ValueError, match="there is no .*model.json"):
        model_folder.read_model_config(tmp_path)

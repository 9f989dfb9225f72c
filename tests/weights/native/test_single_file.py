import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eomt_jax.models import variants
from eomt_jax.weights import stored
from eomt_jax.weights.formats.files import open_checkpoint
from eomt_jax.weights.load import load, load_backbone
from eomt_jax.weights.native import model_folder, single_file
from tests.weights.native.test_model_folder import INFO


@pytest.fixture
def model():
    return variants.create_eomt(
        "tiny", num_classes=2, num_queries=3, image_size=(32, 32), num_query_blocks=1
    )


@pytest.fixture
def params(model):
    images = np.zeros((1, 32, 32, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def test_save_then_load_returns_the_same_bits_and_model(tmp_path, model, params):
    path = tmp_path / "new" / "model.safetensors"
    model_folder.save_file(path, model, params, dataset_info=INFO)
    with open_checkpoint(path) as checkpoint:
        config = model_folder.ModelConfig.from_json(
            single_file.text_of(checkpoint), "a"
        )
    assert config == model_folder.ModelConfig.of(model, INFO)
    got_model, got = load(path)
    assert got_model == model
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(got))
    jax.tree.map(np.testing.assert_array_equal, got, params)
    assert list(path.parent.iterdir()) == [path]


def test_file_holds_parameters_by_path_for_other_readers(tmp_path, model, params):
    path = tmp_path / "a.safetensors"
    model_folder.save_file(path, model, params)
    tensors = load_file(path)
    assert {t.dtype for t in tensors.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(
        tensors["vit/block_0/mlp/up/bias"],
        params["vit"]["block_0"]["mlp"]["up"]["bias"],
    )


def test_bare_backbone_and_device_arrays_are_saved_too(tmp_path, model, params):
    path = tmp_path / "vit.safetensors"
    bfloat16 = jax.tree.map(lambda x: jax.numpy.asarray(x, "bfloat16"), params["vit"])
    model_folder.save_file(path, model.vit, bfloat16)
    vit, got = load_backbone(path)
    assert vit == model.vit
    jax.tree.map(np.testing.assert_array_equal, got, bfloat16)
    with pytest.raises(ValueError, match="holds a backbone, not a whole network"):
        load(path)


def test_save_file_refuses_before_it_writes(tmp_path, model, params):
    with pytest.raises(ValueError, match="must end in .safetensors"):
        model_folder.save_file(tmp_path / "a.bin", model, params)
    params["queries"][1, 2] = np.nan
    with pytest.raises(ValueError, match="queries holds values that are not finite"):
        model_folder.save_file(tmp_path / "a.safetensors", model, params)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.safetensors").write_text("")
    with pytest.raises(ValueError, match="a.safetensors exists already"):
        model_folder.save_file(tmp_path / "a.safetensors", model, params)


def test_changed_value_or_text_does_not_fit_the_checksum(tmp_path, model, params):
    path = tmp_path / "a.safetensors"
    model_folder.save_file(path, model, params)
    metadata = {
        single_file.TEXT_KEY: model_folder.ModelConfig.of(model).to_json(),
        single_file.CHECKSUM_KEY: "0" * 8,
    }
    save_file(load_file(path), path, metadata)
    with pytest.raises(ValueError, match="a.safetensors was written with the checksum"):
        load(path)


def test_text_of_another_version_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    text = json.dumps({"version": 2, "kind": "EoMT", "model": {}, "dataset": None})
    single_file.write(path, text, {"queries": np.zeros(3)})
    with pytest.raises(ValueError, match="a.safetensors's metadata has version 2"):
        load(path)


def test_loading_a_single_file_opens_it_once(tmp_path, model, params, monkeypatch):
    path, opened = tmp_path / "a.safetensors", []
    model_folder.save_file(path, model, params)
    monkeypatch.setattr(
        stored, "open_checkpoint", lambda p: opened.append(p) or open_checkpoint(p)
    )
    load(path)
    assert opened == [path]


def test_model_is_loaded_in_float32_without_remat_however_it_was_trained(
    tmp_path, params
):
    trained = variants.create_eomt(
        "tiny",
        num_classes=2,
        num_queries=3,
        image_size=(32, 32),
        num_query_blocks=1,
        dtype="bfloat16",
        remat=True,
    )
    model_folder.save_file(tmp_path / "a.safetensors", trained, params)
    model, _ = load(tmp_path / "a.safetensors")
    assert (model.dtype, model.vit.remat) == (np.float32, False)
    model, _ = load(tmp_path / "a.safetensors", dtype="bfloat16", remat=True)
    assert model == trained


def test_loading_a_single_file_imports_no_orbax(tmp_path, model, params):
    model_folder.save_file(tmp_path / "a.safetensors", model, params)
    code = (
        "import sys\nfrom eomt_jax.weights.load import load\n"
        f"load({str(tmp_path / 'a.safetensors')!r})\n"
        "print([m for m in sys.modules if m.startswith('orbax')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("other", ["queries/kernel", "queries//x", "/x", ""])
def test_conflicting_names_of_tensors_are_refused(tmp_path, other):
    path = tmp_path / "a.safetensors"
    values = {"queries": np.zeros(3, np.float32), other: np.zeros(3, np.float32)}
    save_file(values, path, {single_file.TEXT_KEY: "{}"})
    with pytest.raises(ValueError, match=r"a\.safetensors has a tensor named"):
        load(path)

"""Weights are found on the machine, and the best of them is taken."""

import json
import pathlib

import jax
import numpy as np
import pytest
from etils import epath

from eomt_jax.models import variants
from eomt_jax.own_data import run_folder
from eomt_jax.own_data import weights as weights_module
from eomt_jax.own_data.places import Recognized
from eomt_jax.own_data.run_folder import Plan
from eomt_jax.own_data.weights import BACKBONE, CHECKPOINT, Weights, choose
from eomt_jax.weights.native import model_folder


def weights(kind, variant):
    return Weights(f"{variant}.{kind}", kind, variant, "")


def test_choose_prefers_whole_networks_and_sizes_that_suit_the_device():
    small, base = weights(BACKBONE, "small"), weights(BACKBONE, "base")
    trained, large = weights(CHECKPOINT, "base"), weights(CHECKPOINT, "large")
    assert choose([base, small], on_cpu=True) == small
    assert choose([small, base], on_cpu=False) == base
    assert choose([small, large, trained], on_cpu=True) == trained
    assert choose([large], on_cpu=True) is None
    assert choose([large], on_cpu=False) == large


@pytest.fixture
def nothing_else(tmp_path, monkeypatch):
    """Sets empty folders, and a hub that isn't reached; returns the working folder."""
    monkeypatch.setattr(weights_module, "DEFAULT_FOLDER", str(tmp_path / "cache"))
    monkeypatch.setattr(weights_module, "_is_cached", lambda name: False)

    resolve = weights_module.hub.resolve

    def unreached(name):
        if pathlib.Path(name).exists():
            return resolve(name)
        raise ValueError("the Hugging Face hub cannot be reached")

    monkeypatch.setattr(weights_module.hub, "resolve", unreached)
    (tmp_path / "work").mkdir()
    (tmp_path / "cache").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_find_weights_without_any_says_what_to_download_and_where(nothing_else):
    (nothing_else / "notes.txt").write_text("text")
    (nothing_else / "torn.safetensors").write_bytes(b"torn")
    found = weights_module.find_weights("", on_cpu=True)
    assert (found.path, found.kind, found.variant) == ("", "", "tiny")
    for part in (
        "https://huggingface.co/facebook/dinov2-with-registers-small/resolve/main/",
        "~/.cache/eomt_jax/dinov2-with-registers-small.safetensors",
        "from scratch",
    ):
        assert part in found.sentence
    assert weights_module.find_weights("none", on_cpu=True).kind == ""


def test_find_weights_in_the_folders_or_as_given(nothing_else, monkeypatch):
    monkeypatch.setitem(variants.VARIANTS, "micro", variants.Variant(16, 2, 2, 32, 1))
    monkeypatch.setitem(weights_module._PREFERRED, True, ("micro",))
    model = variants.create_eomt(
        "micro", num_classes=3, num_queries=5, image_size=(32, 32)
    )
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), "uint8")
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    file = nothing_else.parent / "cache/mine.safetensors"
    model_folder.save_file(file, model, params)
    for given in (str(file), ""):
        found = weights_module.find_weights(given, on_cpu=True)
        assert found == Weights(
            str(file),
            CHECKPOINT,
            "micro",
            f"It starts from {file}: a whole network of the size micro.",
            num_queries=5,
            patch_size=16,
        )
    monkeypatch.undo()
    with pytest.raises(ValueError, match="--weights=no.pth: There is no checkpoint at"):
        weights_module.find_weights("no.pth", on_cpu=True)


def test_plan_is_read_as_written_and_other_folders_are_refused(tmp_path):
    data = Recognized("mask_folder", "semantic", {"images": "photos"}, "It has …", "[]")
    chosen = Weights("x", CHECKPOINT, "small", "", 50, 16, ("sky", "road"))
    plan = Plan(data, {"images": "photos"}, "", {"steps": 5}, chosen)
    out = epath.Path(tmp_path) / "run"
    assert run_folder.read_plan(out) is None
    run_folder.check_free(out)
    run_folder.write_plan(out, plan)
    assert run_folder.read_plan(out) == plan
    run_folder.check_free(out)

    (out / run_folder.PLAN_FILE).write_text(json.dumps({"data": {}, "weights": None}))
    with pytest.raises(ValueError, match="is no plan of a training"):
        run_folder.read_plan(out)
    (out / run_folder.PLAN_FILE).rename(out / "other")
    with pytest.raises(ValueError, match="holds something else than a training"):
        run_folder.check_free(out)
    for path in (str(tmp_path), f"train={tmp_path},validation=x"):
        with pytest.raises(ValueError, match="lies in .*: name a folder outside of it"):
            run_folder.check_free(out.parent / "new", [path])
    run_folder.check_free(out.parent / "new", [str(tmp_path / "photos")])
    with pytest.raises(ValueError, match="is a file: name a new folder"):
        run_folder.check_free(out / "other")


def test_removed_on_error_leaves_no_folder(tmp_path):
    out = epath.Path(tmp_path) / "run"
    with pytest.raises(ValueError, match="no"), run_folder.removed_on_error(out):
        (out / run_folder.DATA_FOLDER).mkdir(parents=True)
        (out / run_folder.PLAN_FILE).write_text("{}")
        raise ValueError("no")
    assert not out.exists()


@pytest.mark.parametrize(
    ("has_torch", "cached", "missing", "taken"),
    [
        (True, (), (), "tue-mps/coco_panoptic_eomt_small_640_2x"),
        (False, (), (), "facebook/dinov2-with-registers-small"),
        (True, ("facebook/dinov2-small",), (), "facebook/dinov2-small"),
        (False, (), ("facebook/dinov2-with-registers-small",), "facebook/dinov2-small"),
    ],
)
def test_find_weights_on_the_hub_takes_what_is_cached_and_can_be_read(
    nothing_else, monkeypatch, has_torch, cached, missing, taken
):
    def resolve(name):
        if name in missing:
            raise ValueError("the Hugging Face hub has no public model of that name")

    spec = object() if has_torch else None
    monkeypatch.setattr(weights_module.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(weights_module, "_is_cached", lambda name: name in cached)
    monkeypatch.setattr(weights_module.hub, "resolve", resolve)
    monkeypatch.setattr(
        weights_module, "describe", lambda name: Weights(name, "", "", "")
    )
    assert weights_module.find_weights("", on_cpu=True).path == taken

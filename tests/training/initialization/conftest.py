"""Stored networks, and a network that is built from a recipe's fields and them."""

import dataclasses

import jax
import numpy as np
import pytest

from eomt_jax.models import variants
from eomt_jax.models.eomt import EoMT
from eomt_jax.models.registry import ModelOptions
from eomt_jax.training.initialization import InitOptions, initialize
from eomt_jax.training.state import param_shapes
from eomt_jax.types import ClassInfo, DatasetInfo
from eomt_jax.weights.native import model_folder

NAMES = ("cat", "dog", "sky")


def create_vit(variant, **options):
    """Returns a ViT for images of 32 pixels."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        return variants.create_vit(
            variant, image_size=(32, 32), patch_size=8, **options
        )


def save_vit(folder, vit):
    """Writes a ViT with random parameters; returns (folder, parameters)."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    params = random_like(jax.eval_shape(vit.init, jax.random.key(0), images)["params"])
    model_folder.save(folder, vit, params)
    return folder, params


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """Returns a folder with a ViT of the variant `micro` without registers."""
    vit = create_vit("micro", num_register_tokens=0)
    return save_vit(tmp_path_factory.mktemp("backbone") / "vit", vit)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Returns a whole EoMT of the same ViT, with 4 queries and classes NAMES."""
    vit = create_vit("micro", num_register_tokens=0)
    model = EoMT(vit, num_classes=3, num_queries=4, num_query_blocks=1)
    params = random_like(param_shapes(model))
    classes = tuple(ClassInfo(i, name, True, (0, 0, 0)) for i, name in enumerate(NAMES))
    info = DatasetInfo("pets", classes, (32, 32), 3, {"train": 1})
    folder = tmp_path_factory.mktemp("checkpoint") / "eomt"
    model_folder.save(folder, model, params, dataset_info=info)
    return folder, params


def random_like(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes
    )


@pytest.fixture(scope="module")
def rotary_backbone(tmp_path_factory):
    """Returns a folder with a ViT of the variant `rotary`."""
    return save_vit(tmp_path_factory.mktemp("rotary") / "vit", create_vit("rotary"))


def register(patch):
    patch.setitem(variants.VARIANTS, "micro", variants.Variant(16, 2, 2, 32, 1))
    patch.setitem(variants.VARIANTS, "wide", variants.Variant(24, 2, 2, 48, 1))
    rotary = {"positions": "rotary", "qkv_bias": "no_key", "layer_norm_eps": 1e-5}
    # It has one head of the width that is assumed for files of PyTorch.
    rotary = variants.Variant(64, 2, 1, 128, 1, **rotary)
    patch.setitem(variants.VARIANTS, "rotary", rotary)


@pytest.fixture(autouse=True)
def small_variants(monkeypatch):
    register(monkeypatch)


def build(variant="micro", **changes):
    fields = {"variant": variant, "num_queries": 4, "patch_size": 8, **changes}
    others = {"class_names": NAMES, "image_size": (32, 32)}
    others |= {
        name: fields.pop(name) for name in (*others, "resumed") if name in fields
    }
    names = {field.name for field in dataclasses.fields(InitOptions)}
    init = {name: fields.pop(name) for name in names & fields.keys()}
    # Paths of pytest are texts in a recipe.
    for name in {"backbone", "checkpoint"} & init.keys():
        init[name] = str(init[name])
    return initialize(ModelOptions(**fields), InitOptions(**init), **others)


def rows(initialization):
    return {row.group: row for row in initialization.report}


@pytest.fixture(scope="module")
def rotary_eomt(rotary_backbone):
    """Returns a whole EoMT of that ViT with 4 queries, and its parameters."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        sizes = {"image_size": (32, 32), "patch_size": 8}
        model = variants.create_eomt("rotary", num_classes=3, num_queries=4, **sizes)
    params = random_like(param_shapes(model))
    return model, {**params, "vit": rotary_backbone[1]}

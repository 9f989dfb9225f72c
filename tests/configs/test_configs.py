"""Recipes load, are locked, and have no field that nobody reads."""

import importlib
import pathlib
import re

import ml_collections
import pytest

from configs import common
from eomt_jax.models import variants
from eomt_jax.training.setup import count_steps

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if path.stem not in ("__init__", "common")
)
# COCO's annotated training photographs.
COCO_IMAGES = 118_262


def load(name):
    return importlib.import_module(f"configs.{name}")


def fields(config, prefix=()):
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from fields(value, (*prefix, name))
        else:
            yield (*prefix, name)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_locked_and_has_the_fields_of_common(name):
    config = load(name).get_config()
    assert config.is_locked
    assert list(fields(config)) == list(fields(common.get_config()))
    variants.get_variant(config.model.variant)
    assert config.image_size % config.model.patch_size == 0


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_its_command(name):
    command = f"python train.py --config=configs/{name}.py --workdir="
    assert command in load(name).__doc__


def test_every_field_has_a_reader():
    sources = [*(ROOT / "eomt_jax").rglob("*.py"), ROOT / "train.py", ROOT / "eval.py"]
    text = "\n".join(path.read_text() for path in sources if path.exists())
    words = set(re.findall(r"\w+", text))
    assert [f for f in fields(common.get_config()) if f[-1] not in words] == []


@pytest.mark.parametrize(
    "name, num_examples, total_steps",
    [
        ("coco_panoptic_vits_640_1x", COCO_IMAGES, 88_692),
        ("coco_panoptic_vits_640_2x", COCO_IMAGES, 177_384),
        ("coco_panoptic_vitb_640_1x", COCO_IMAGES, 88_692),
        ("coco_panoptic_vitb_640_2x", COCO_IMAGES, 177_384),
        ("coco_panoptic_vitl_640", COCO_IMAGES, 88_692),
        ("coco_panoptic_vitl_1280", COCO_IMAGES, 88_692),
        ("coco_panoptic_vitg_640", COCO_IMAGES, 88_692),
        ("coco_panoptic_vitg_1280", COCO_IMAGES, 88_692),
        ("coco_instance_vitl_640", 117_266, 87_948),
        ("coco_instance_vitl_1280", 117_266, 87_948),
        ("ade20k_vitl", 20_210, 39_153),
        ("ade20k_vitl_1280", 20_210, 39_153),
        ("ade20k_vitg", 20_210, 39_153),
        ("ade20k_vitg_1280", 20_210, 39_153),
        ("ade20k_semantic_vitl", 20_210, 39_153),
        ("cityscapes_semantic_vitl", 2_975, 19_795),
    ],
)
def test_published_recipe_has_the_published_length(name, num_examples, total_steps):
    config = load(name).get_config()
    steps = count_steps(config, num_examples=num_examples)
    assert steps == total_steps
    # The published warm-ups, not shortened.
    assert config.optimizer.published_steps <= steps


def test_published_numbers():
    config = common.get_config()
    assert (config.image_size, config.batch_size) == (640, 16)
    assert (config.model.patch_size, config.model.num_queries) == (16, 200)
    assert config.optimizer.to_dict() == {
        "learning_rate": 1e-4,
        "weight_decay": 0.05,
        "layer_decay": 0.8,
        "clip_norm": 0.01,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "warmup_head": 500,
        "warmup_vit": 1000,
        "power": 0.9,
        "published_steps": 88_692,
    }
    assert config.augmentation.scale_range == (0.1, 2.0)
    assert not config.augmentation.color_jitter

"""Recipes load, are locked, and have no field that nobody reads."""

import importlib
import re

import pytest

from configs import common
from eomt_jax.models import variants
from eomt_jax.training.setup import count_steps
from tests.configs.golden import RECIPES, ROOT, fields, get_config

# COCO's photographs with panoptic annotations.
COCO_IMAGES = 118_262


def names(config):
    return [name for name, _ in fields(config)]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_locked_and_has_the_fields_of_common(name):
    config = get_config(name)
    assert config.is_locked
    assert names(config) == names(common.get_config())
    variants.get_variant(config.model.variant)
    assert config.image_size % config.model.patch_size == 0


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_its_command(name):
    command = f"python train.py --config=configs/{name}.py --workdir="
    assert command in importlib.import_module(f"configs.{name}").__doc__


def test_every_field_has_a_reader():
    sources = [*(ROOT / "eomt_jax").rglob("*.py"), ROOT / "train.py", ROOT / "eval.py"]
    text = "\n".join(path.read_text() for path in sources)
    # What functions that are handed a section alone call it.
    shorter = {"dataset": "data", "annealing": "config"}

    def has_reader(field):
        *section, name = field.split(".")
        if not section:
            return re.search(rf"config\.{name}\b", text)
        (section,) = section
        # Spread over a call, a field that no parameter takes is an error.
        spread = f"**config.{section}" in text
        names = f"{section}|{shorter.get(section, section)}"
        return spread or re.search(rf"\b({names})\.{name}\b", text)

    assert [f for f in names(common.get_config()) if not has_reader(f)] == []
    assert not has_reader("eval.name") and not has_reader("name")


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
    config = get_config(name)
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
        "frozen_blocks": 0,
    }
    assert config.augmentation.scale_range == (0.1, 2.0)
    assert not config.augmentation.color_jitter


def test_table_of_recipes_says_what_they_are():
    rows = {}
    for line in (ROOT / "docs" / "recipes.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 1 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[1:]
    assert sorted(rows) == RECIPES
    published = {name: cells for name, cells in rows.items() if len(cells) == 7}
    assert len(published) == 16
    for name, (dataset, score, px, queries, epochs, scale, jitter) in published.items():
        config = get_config(name)
        assert dataset == f"`{config.dataset.name}`", name
        assert (int(px), int(queries)) == (config.image_size, config.model.num_queries)
        assert int(epochs) == config.epochs
        low, high = scale.split("–")
        assert (float(low), float(high)) == config.augmentation.scale_range
        assert (jitter == "yes") == config.augmentation.color_jitter
        number, metric = score.split()[:2]
        docstring = importlib.import_module(f"configs.{name}").__doc__
        assert f"Published: {number} {metric}" in docstring, name
